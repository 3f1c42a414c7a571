//! Merges the deltas of two trained concepts and saves an image of both, as a client of a running service.
//!
//! ```sh
//! cargo run --release --example merge_two -- rex gate "photo of a gate next to a <rex> dog on the grass"
//! ```
//!
//! `teach_a_concept` shows how to teach them.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::json;
use vstar::client::Client;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [first, second, prompt] = arguments.as_slice() else {
        bail!("arguments: HANDLE HANDLE PROMPT");
    };
    let client = Client::new("http://127.0.0.1:8080");
    let concepts = json!([{ "concept": first }, { "concept": second }]);

    // Do they go together? The answer comes at once: no job, no device.
    let check = client.post("/v1/merges/check", &json!({ "concepts": concepts })).await?;
    println!(
        "verdict {}: constraint error {:.3}, drift of other prompts {:.3}",
        check["verdict"],
        check["constraint_error"].as_f64().unwrap_or(f64::NAN),
        check["drift"].as_f64().unwrap_or(f64::NAN),
    );

    // A merge is a job whose result is a delta.
    let merge = client.post("/v1/merges", &json!({ "concepts": concepts })).await?;
    let merge = merge["urls"]["self"].as_str().context("the job has no URL")?;
    let merge = client.finish(merge, |_| {}).await?;
    let delta = merge["delta"].as_str().context("the merge has no delta")?;
    client
        .download(&format!("/v1/deltas/{delta}/content"), Path::new("merged.safetensors"))
        .await?;
    println!("the merged delta is {delta}, in merged.safetensors");

    // The merged delta brings both concepts.
    let sample = json!({ "prompt": prompt, "concepts": [{ "delta": delta }], "seed": 7 });
    let sample = client.post("/v1/samples", &sample).await?;
    let sample = sample["urls"]["self"].as_str().context("the job has no URL")?;
    let sample = client.finish(sample, |_| {}).await?;
    let image = sample["images"][0]["url"].as_str().context("the sample has no image")?;
    client.download(image, Path::new("merged.png")).await?;
    println!("look at merged.png");
    Ok(())
}
