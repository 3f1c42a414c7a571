//! Deltas of fewer ranks: what they cost and what is left.

use anyhow::Result;
use serde_json::{Value, json};

use super::single::Figures;
use super::workshop::Workshop;
use crate::demo::ConceptPhotos;
use crate::scoring;

/// How far deltas are compressed: the name of a row, its key, and the request.
fn compressions() -> [(&'static str, &'static str, Value); 6] {
    [
        ("rank 1", "rank1", json!({ "rank": 1 })),
        ("rank 4", "rank4", json!({ "rank": 4 })),
        ("rank 16", "rank16", json!({ "rank": 16 })),
        ("energy 0.4", "energy40", json!({ "energy": 0.4 })),
        ("energy 0.6, as in the paper", "energy60", json!({ "energy": 0.6 })),
        ("energy 0.8", "energy80", json!({ "energy": 0.8 })),
    ]
}

/// Makes the table, if the service compresses.
pub(super) async fn table(workshop: &Workshop<'_>) -> Result<String> {
    if !workshop.has_path("/v1/deltas/{delta_id}/compress") {
        return Ok(String::new());
    }
    let seed = workshop.args.seeds.first().copied().unwrap_or(1);
    let mut base = Vec::new();
    let (mut deltas, mut whole) = (Vec::new(), Row::default());
    for concept in workshop.concepts {
        let subject = json!({ "name": "base model", "base": true });
        base.push(workshop.evaluate_alone(concept, "base", subject).await?);
        let delta = workshop.taught(concept, seed).await?;
        let of_concept = base.len() - 1;
        whole.add(workshop, concept, "full", &delta, &base[of_concept]).await?;
        deltas.push(delta);
    }
    let mut table = Figures::table("");
    table.head.push("kB".to_owned());
    table.row(whole.cells("as learned"));
    for (name, key, request) in compressions() {
        let mut row = Row::default();
        for ((concept, delta), base) in workshop.concepts.iter().zip(&deltas).zip(&base) {
            let key = format!("compressed-{key}");
            match workshop.compressed(concept, &key, delta, &request).await? {
                Ok(small) => row.add(workshop, concept, &key, &small, base).await?,
                Err(_) => row.figures.failed += 1,
            }
        }
        table.row(row.cells(name));
    }
    let remark = format!(
        "The deltas of seed {seed}, each key and value matrix kept to its largest singular values: a number of them, or as many as make up \
         a share of their sum. *kB*: the mean size of a delta. The other columns are those of the tables above."
    );
    Ok(table.without_empty_columns().text("Compression", &remark))
}

/// A row of the table.
#[derive(Default)]
struct Row {
    figures: Figures,
    kilobytes: Vec<f64>,
}

impl Row {
    async fn add(
        &mut self,
        workshop: &Workshop<'_>,
        concept: &ConceptPhotos,
        key: &str,
        delta: &str,
        base: &Result<Value, String>,
    ) -> Result<()> {
        let subject = json!({ "name": key, "concepts": [{ "delta": delta }] });
        let evaluation = workshop.evaluate_alone(concept, key, subject).await?;
        self.figures.add(concept, &evaluation, base);
        let stored = workshop.client.get(&format!("/v1/deltas/{delta}")).await?;
        self.kilobytes.extend(stored["size_bytes"].as_f64().map(|bytes| bytes / 1e3));
        Ok(())
    }

    fn cells(&self, name: &str) -> Vec<String> {
        let mut cells = self.figures.row(name);
        let size = scoring::mean(&self.kilobytes);
        cells.push(size.map_or_else(|| "–".to_owned(), |size| format!("{size:.0}")));
        cells
    }
}
