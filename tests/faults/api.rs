//! The API, killed while it takes uploads and creates things.

use std::cell::RefCell;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::client::{Answer, photos_of, text, training_of};
use crate::program;
use crate::report::{Round, Run, figures};
use crate::world::{Setup, World};

/// What clients asked for in a round, and what they heard.
#[derive(Default)]
struct Asked {
    concepts: Vec<(String, bool)>,
    /// Handles and what the upload answered.
    uploads: Vec<(String, Option<Value>)>,
    /// Collection, body, key, and the id that was answered.
    jobs: Vec<(&'static str, Value, String, Option<String>)>,
}

pub(crate) async fn killed(run: Run) -> Result<()> {
    let world = World::start(&run, Setup::default()).await?;
    world.client.concept("dog", "dog").await?;
    let has_keys = program::describes("idempotency-key");

    run.rounds(1, async |round| {
        let asked = RefCell::new(Asked::default());
        let clients = async {
            tokio::join!(
                concepts(&world, round, &asked, 0),
                concepts(&world, round, &asked, 1),
                jobs(&world, round, &asked, "/v1/samples", has_keys),
                jobs(&world, round, &asked, "/v1/trainings", has_keys),
            )
        };
        let kill = async {
            tokio::time::sleep(round.millis(500)).await;
            world.kill_api();
        };
        tokio::join!(clients, kill);
        let restart = world.start_api().await?;

        let asked = asked.into_inner();
        for (handle, acknowledged) in &asked.concepts {
            let answer = world.client.try_get(&format!("/v1/concepts/{handle}")).await?;
            ensure!(
                answer.status == 200 || (!acknowledged && answer.status == 404),
                "{handle}: {answer:?}"
            );
        }
        for (handle, answered) in &asked.uploads {
            check_photos(&world, handle, answered.as_ref()).await?;
        }
        let mut lost_answers = 0;
        for (collection, body, key, id) in &asked.jobs {
            let id = match id {
                Some(id) => id.clone(),
                None if has_keys => {
                    lost_answers += 1;
                    repeated(&world, collection, body, key).await?
                }
                None => continue,
            };
            let job = world.client.get(&format!("{collection}/{id}")).await?;
            ensure!(job["status"] == "queued", "{job}");
        }
        if has_keys {
            // As many jobs as keys: nothing was made twice.
            let jobs: i64 =
                sqlx::query_scalar("select count(*) from job").fetch_one(&world.db).await?;
            ensure!(
                jobs == asked.jobs.len() as i64,
                "{jobs} jobs of {} requests",
                asked.jobs.len()
            );
        }
        sqlx::query("delete from job").execute(&world.db).await?;
        let acknowledged = asked.concepts.iter().filter(|(_, acknowledged)| *acknowledged).count()
            + asked.uploads.iter().filter(|(_, answer)| answer.is_some()).count()
            + asked.jobs.iter().filter(|(_, _, _, id)| id.is_some()).count();
        let mut measured = figures([
            ("requests acknowledged", acknowledged as f64),
            ("s to restart", restart.as_secs_f64()),
        ]);
        if has_keys {
            measured.insert("creates repeated by their key".to_owned(), f64::from(lost_answers));
        }
        Ok(measured)
    })
    .await
}

/// Creates concepts and uploads photos until the API is gone.
async fn concepts(world: &World, round: &Round, asked: &RefCell<Asked>, client: usize) {
    for number in 0..50 {
        let handle = format!("c-{}-{client}-{number}", round.number);
        let body = json!({ "handle": handle, "modifier_token": format!("<{handle}>"), "class_noun": "dog" });
        let answer = world.client.try_post("/v1/concepts", &body).await;
        let acknowledged = answer.as_ref().is_ok_and(Answer::is_success);
        asked.borrow_mut().concepts.push((handle.clone(), acknowledged));
        if !acknowledged {
            return;
        }
        let path = format!("/v1/concepts/{handle}/images");
        let answer = world.client.try_upload(&path, &photos_of("dog")).await;
        let body = answer.ok().filter(Answer::is_success).map(|answer| answer.body);
        let is_over = body.is_none();
        asked.borrow_mut().uploads.push((handle, body));
        if is_over {
            return;
        }
    }
}

/// Starts jobs until the API is gone.
async fn jobs(
    world: &World,
    round: &Round,
    asked: &RefCell<Asked>,
    collection: &'static str,
    has_keys: bool,
) {
    for number in 0..20 {
        let body = match collection {
            "/v1/samples" => json!({ "prompt": "a dog", "seed": number }),
            _ => training_of("dog", 10),
        };
        let key = format!("{collection}-{}-{number}", round.number);
        let answer = create(world, collection, &body, has_keys.then_some(&key)).await;
        let id = answer.ok().filter(Answer::is_success);
        let id = id.and_then(|answer| text(&answer.body, "id").ok().map(str::to_owned));
        let is_over = id.is_none();
        asked.borrow_mut().jobs.push((collection, body, key, id));
        if is_over {
            return;
        }
    }
}

async fn create(
    world: &World,
    collection: &str,
    body: &Value,
    key: Option<&String>,
) -> Result<Answer> {
    let mut request = world.client.request(reqwest::Method::POST, collection).json(body);
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    world.client.send(request).await
}

/// Repeats a create whose answer was lost, twice: both times the same job is answered.
async fn repeated(world: &World, collection: &str, body: &Value, key: &String) -> Result<String> {
    let first = create(world, collection, body, Some(key)).await?.success()?;
    let second = create(world, collection, body, Some(key)).await?.success()?;
    ensure!(first["id"] == second["id"], "one key made {} and {}", first["id"], second["id"]);
    Ok(text(&first, "id")?.to_owned())
}

/// Every photo that is listed can be read, and every one that was acknowledged is listed.
pub(crate) async fn check_photos(
    world: &World,
    handle: &str,
    answered: Option<&Value>,
) -> Result<()> {
    let listed = world.client.get(&format!("/v1/concepts/{handle}/images")).await?;
    let listed = listed["data"].as_array().context("images")?;
    for image in listed {
        let bytes = world
            .client
            .bytes(text(image, "url")?)
            .await
            .context(format!("a photo of {handle}"))?;
        ensure!(
            image["sha256"] == program::sha256(&bytes).as_str(),
            "{handle}: {image} has other bytes"
        );
    }
    let Some(answered) = answered else { return Ok(()) };
    for verdict in answered["data"].as_array().context("verdicts")? {
        ensure!(verdict["status"] == "accepted", "{verdict}");
        let is_listed = listed.iter().any(|image| image["id"] == verdict["image"]["id"]);
        ensure!(is_listed, "{handle} has lost {verdict}");
    }
    let concept = world.client.get(&format!("/v1/concepts/{handle}")).await?;
    ensure!(concept["image_count"] == listed.len(), "{concept}");
    Ok(())
}

/// How long an answer may take while something behind the API is away.
pub(crate) const ANSWER: Duration = Duration::from_secs(15);

/// Whether an answer says that the service cannot do it now, and when to try again.
pub(crate) fn is_away(answer: &Answer) -> Result<()> {
    ensure!(answer.status == 503, "{answer:?}");
    ensure!(answer.retry_after.is_some(), "no Retry-After: {answer:?}");
    ensure!(answer.took < ANSWER, "answered after {:?}: {answer:?}", answer.took);
    Ok(())
}
