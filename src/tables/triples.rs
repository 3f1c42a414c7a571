//! Three concepts in one image.

use anyhow::Result;

use super::pairs::{ComposedBy, by_group, overall, strip};
use super::sheet;
use super::workshop::Workshop;
use crate::demo::ConceptPhotos;

/// Prompts of three things.
const PROMPTS: [&str; 2] =
    ["a {1}, a {2} and a {3} on the grass", "a {3} next to a {1} and a {2} in the snow"];

fn prompts(names: &[String]) -> Vec<String> {
    let filled = |template: &&str| {
        let named = names.iter().enumerate();
        named.fold((*template).to_owned(), |text, (index, name)| {
            text.replace(&format!("{{{}}}", index + 1), name)
        })
    };
    PROMPTS.iter().map(filled).collect()
}

/// Makes the table and its sheet, with the first seed.
pub(super) async fn table(
    workshop: &Workshop<'_>,
    triples: &[[&ConceptPhotos; 3]],
) -> Result<String> {
    let mut ways = ComposedBy::wanted(workshop);
    ways.retain(|way| !matches!(way, ComposedBy::Joint | ComposedBy::Sequential));
    let (mut all, mut strips) = (Vec::new(), Vec::new());
    for triple in triples {
        let names = triple.map(|concept| concept.name.as_str());
        let mut made = Vec::new();
        for way in &ways {
            let seed = workshop.args.seeds.first().copied().unwrap_or(1);
            made.extend(workshop.compose(triple, *way, seed, prompts).await?);
        }
        let title = names.join(" + ");
        strips.push(strip(workshop, &title, triple, &made).await?);
        all.push((title, made));
    }
    let columns: Vec<&str> = ways.iter().map(|way| way.name()).collect();
    sheet::draw(&columns, strips, &workshop.args.out.join("triples.png"))?;
    let remark = format!(
        "{} triples, {} prompts, {} images of each; as for pairs, each concept in its third of the image. Sheet: `triples.png`.",
        triples.len(),
        PROMPTS.len(),
        workshop.args.images_per_prompt
    );
    let overall = overall(&ways, &all).text("Three concepts in one image", &remark);
    let each = by_group(&ways, &all).text("Triple by triple", "As for pairs.");
    Ok(format!("{overall}\n{each}"))
}
