//! The documentation page.

use sqlx::PgPool;

use crate::harness::Service;

#[sqlx::test]
async fn the_page_has_every_operation_and_loads_nothing(db: PgPool) {
    let service = Service::start(db).await;

    let answer = service.get("/docs").await;

    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
    let policy = answer.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    let page = String::from_utf8(answer.bytes).unwrap();
    // Texts are escaped, so what looks like markup is markup.
    for outside in ["<script", "<img", "<link", "<iframe", " src=", " style=", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    for (path, methods) in vstar::http::openapi().value()["paths"].as_object().unwrap() {
        for operation in methods.as_object().unwrap().values() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(page.contains(&format!("<article id=\"{id}\">")), "{id} {path}");
        }
    }
}

#[sqlx::test]
async fn links_within_the_page_lead_somewhere(db: PgPool) {
    let service = Service::start(db).await;

    let page = String::from_utf8(service.get("/docs").await.bytes).unwrap();

    let targets: Vec<&str> =
        page.split("href=\"#").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(targets.len() > 100);
    for target in targets {
        assert!(page.contains(&format!("id=\"{target}\"")), "{target}");
    }
}

#[sqlx::test]
async fn the_description_is_the_committed_one(db: PgPool) {
    let service = Service::start(db).await;

    let answer = service.get("/openapi.json").await;

    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(&answer.body, vstar::http::openapi().value());
}
