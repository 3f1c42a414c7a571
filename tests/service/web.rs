//! The studio's files, as a browser gets them.

use reqwest::{Method, RequestBuilder};
use sqlx::PgPool;
use vstar::app::access::Rates;
use vstar::http::Doors;

use crate::harness::{Answer, Service};

async fn fetched(
    service: &Service,
    path: &str,
    with: impl FnOnce(RequestBuilder) -> RequestBuilder,
) -> Answer {
    service.send(with(service.request_without_key(Method::GET, path))).await
}

/// The files that the page names.
fn named(page: &Answer) -> Vec<String> {
    let page = String::from_utf8(page.bytes.clone()).unwrap();
    let quoted = page.split('"').skip(1).step_by(2);
    quoted.filter(|text| text.starts_with("assets/")).map(|path| format!("/{path}")).collect()
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn the_page_and_its_files_need_no_key_and_are_kept_as_long_as_they_are_good(db: PgPool) {
    let service = Service::start(db).await;
    let service = service.asking_for_keys(Rates::default(), Doors::default()).await;

    let page = fetched(&service, "/", |request| request).await;

    assert_eq!(page.status, 200, "{page:?}");
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(page.header("cache-control"), "no-cache");
    let files = named(&page);
    assert!(files.iter().any(|path| path.ends_with("/main.js")), "{files:?}");
    for path in &files {
        let file = fetched(&service, path, |request| request).await;
        assert_eq!(file.status, 200, "{path}");
        assert_eq!(file.header("cache-control"), "public, max-age=31536000, immutable", "{path}");
        assert!(!file.bytes.is_empty(), "{path}");
    }
    let known = page.header("etag").to_owned();
    let known = fetched(&service, "/", |request| request.header("if-none-match", known)).await;
    assert_eq!((known.status, known.bytes.len()), (304, 0));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn nothing_outside_may_be_loaded_and_nobody_may_frame_the_page(db: PgPool) {
    let service = Service::start(db).await;

    let page = service.get("/").await;

    let policy = page.header("content-security-policy");
    for part in
        ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"]
    {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(page.header("x-content-type-options"), "nosniff");
    let text = String::from_utf8(page.bytes).unwrap();
    for forbidden in [" style=", "<style", " onclick=", "\"/", "http://", "https://"] {
        assert!(!text.contains(forbidden), "{forbidden}");
    }
    let scripts: Vec<&str> = text.split("<script ").skip(1).collect();
    assert!(!scripts.is_empty());
    assert!(scripts.iter().all(|script| script.contains("src=\"assets/")), "{text}");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn files_are_compressed_for_those_who_take_gzip(db: PgPool) {
    let service = Service::start(db).await;
    let page = service.get("/").await;
    let path = named(&page).into_iter().find(|path| path.ends_with("/main.js")).unwrap();

    let plain = fetched(&service, &path, |request| request).await;
    let small = fetched(&service, &path, |request| request.header("accept-encoding", "gzip")).await;

    assert_eq!((plain.header("content-encoding"), small.header("content-encoding")), ("", "gzip"));
    assert!(small.bytes.starts_with(b"\x1f\x8b") && small.bytes.len() < plain.bytes.len());
    assert_eq!(plain.header("etag"), small.header("etag"));
    assert!(small.headers.get_all("vary").iter().any(|value| value == "accept-encoding"));
    let head = service.send(service.request_without_key(Method::HEAD, &path)).await;
    assert_eq!(head.header("content-length"), plain.bytes.len().to_string());
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_page_of_another_version_is_told_to_load_again(db: PgPool) {
    let service = Service::start(db).await;

    for path in [
        "/assets/0123456789abcdef/main.js",
        "/assets/0123456789abcdef/..%2f..%2fCargo.toml",
        "/assets/x/y/z",
    ] {
        let answer = service.get(path).await;
        let (status, code, _) = answer.problem();
        assert_eq!((status, code), (404, "not_found"), "{path}");
        assert!(answer.text("detail").contains("load the page again"), "{answer:?}");
        assert_eq!(answer.header("cache-control"), "no-store");
    }
}

/// A name that merely resolves to this machine gets no page either: with it a stranger's page could read the catalog.
#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn the_page_is_for_names_of_this_service(db: PgPool) {
    let service = Service::start(db).await;

    let answer = fetched(&service, "/", |request| request.header("host", "evil.example")).await;

    assert_eq!(answer.problem().1, "unknown_host");
}
