//! Teaches a concept from a folder of photos and saves an image of it, as a client of a running service.
//!
//! ```sh
//! vstar serve
//! cargo run --release --example teach_a_concept -- demo/concepts/dog rex dog '<rex>'
//! cargo run --release --example teach_a_concept -- demo/concepts/gate gate gate
//! ```
//!
//! Without a modifier token the class noun itself is taught, for a class that the base model does not know.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::json;
use vstar::client::Client;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (folder, handle, class_noun, modifier_token) = match arguments.as_slice() {
        [folder, handle, noun] => (folder, handle, noun, None),
        [folder, handle, noun, token] => (folder, handle, noun, Some(token)),
        _ => bail!("arguments: FOLDER HANDLE CLASS_NOUN [MODIFIER_TOKEN]"),
    };
    let client = Client::new("http://127.0.0.1:8080");

    // A concept and its photos.
    let concept =
        json!({ "handle": handle, "class_noun": class_noun, "modifier_token": modifier_token });
    client.post("/v1/concepts", &concept).await?;
    let photos = files_in(Path::new(folder))?;
    let verdicts = client.upload(&format!("/v1/concepts/{handle}/images"), &photos).await?;
    println!("{} photos accepted, {} rejected", verdicts["accepted"], verdicts["rejected"]);

    // A training is a job: start it, then look until it has ended.
    let training =
        client.post("/v1/trainings", &json!({ "concepts": [handle], "seed": 1 })).await?;
    let training = training["urls"]["self"].as_str().context("the job has no URL")?;
    let trained = client
        .finish(training, |job| println!("{}, step {}", job["status"], job["progress"]["step"]))
        .await?;
    println!("the delta is {}", trained["delta"]);

    // A sample is a job, too. The prompt names the concept by its token; the list does where there is none.
    let (name, concepts) = match modifier_token {
        Some(token) => (format!("{token} {class_noun}"), json!([])),
        None => (class_noun.clone(), json!([{ "concept": handle }])),
    };
    let sample = json!({
        "prompt": format!("photo of a {name} on the beach"),
        "concepts": concepts,
        "seed": 7,
    });
    let sample = client.post("/v1/samples", &sample).await?;
    let sample = sample["urls"]["self"].as_str().context("the job has no URL")?;
    let sample = client.finish(sample, |_| {}).await?;
    let image = sample["images"][0]["url"].as_str().context("the sample has no image")?;
    let file = format!("{handle}.png");
    client.download(image, Path::new(&file)).await?;
    println!("look at {file}");
    Ok(())
}

fn files_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("{} cannot be read", folder.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}
