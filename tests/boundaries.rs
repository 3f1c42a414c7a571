//! Who may know whom: what a workspace would guard with `[dependencies]`, read off the sources.
//!
//! Every file below `src` is parsed. Each path in it, whether it stands in a `use`, in code, in a macro's arguments or in
//! an attribute, is made absolute: `self`, `super`, nested groups and renames are resolved. The tables say what is allowed;
//! a module that they do not list fails the test, and so does an exception that is no longer needed.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test that calls them")]

#[path = "boundaries/source.rs"]
mod source;

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{TokenStream, TokenTree};
use source::{Crate, Reference, sources, src};

/// Every top-level module, and which of the others it may name.
const MODULES: &[(&str, &[&str])] = &[
    ("lib", &[]),
    // What everybody may know.
    ("domain", &[]),
    ("allocator", &[]),
    ("few_threads", &[]),
    ("shutdown", &[]),
    ("stdout", &[]),
    ("counters", &[]),
    ("config", &["domain"]),
    ("postgres", &["config"]),
    ("image_file", &["domain"]),
    ("photo_file", &["domain"]),
    ("thumbnails", &["byte_cache", "counters", "domain", "photo_file"]),
    // What keeps things, and what computes them.
    ("db", &["domain"]),
    ("storage", &["domain", "few_threads"]),
    ("engine", &["domain"]),
    ("byte_cache", &["counters"]),
    ("class_images", &["domain", "engine", "photo_file", "storage"]),
    ("model_folder", &["class_images", "domain", "engine", "storage"]),
    ("evaluator", &["domain", "engine"]),
    ("scoring", &["domain", "engine", "evaluator"]),
    ("plot", &["domain"]),
    ("contact_sheet", &[]),
    ("image_archive", &["class_images", "domain", "photo_file"]),
    ("text_index", &["byte_cache", "counters", "domain", "engine", "evaluator", "storage"]),
    ("delta_store", &["byte_cache", "counters", "domain", "engine", "model_folder", "storage"]),
    ("reaper", &["counters", "db", "domain"]),
    ("webhook_sender", &["counters", "db", "domain", "shutdown"]),
    ("request_context", &[]),
    ("telemetry", &[]),
    ("metrics", &["counters", "db", "domain"]),
    // What the service can do, and who asks it to.
    (
        "app",
        &[
            "allocator",
            "class_images",
            "db",
            "delta_store",
            "domain",
            "evaluator",
            "few_threads",
            "image_archive",
            "image_file",
            "metrics",
            "photo_file",
            "plot",
            "request_context",
            "scoring",
            "shutdown",
            "storage",
            "text_index",
            "thumbnails",
        ],
    ),
    ("http", &["app", "counters", "domain", "metrics", "request_context", "shutdown", "telemetry"]),
    (
        "worker",
        &[
            "byte_cache",
            "class_images",
            "config",
            "contact_sheet",
            "counters",
            "db",
            "delta_store",
            "domain",
            "engine",
            "evaluator",
            "image_file",
            "model_folder",
            "reaper",
            "request_context",
            "scoring",
            "shutdown",
            "storage",
            "telemetry",
        ],
    ),
    // Clients.
    ("client", &["domain"]),
    ("cli", &["client", "config", "domain", "image_file", "serve", "stdout"]),
    ("bench", &["client", "config", "domain", "engine", "image_file", "stdout", "text_index"]),
    (
        "demo",
        &[
            "client",
            "config",
            "contact_sheet",
            "domain",
            "engine",
            "evaluator",
            "image_file",
            "model_folder",
            "photo_file",
            "scoring",
            "serve",
            "stdout",
        ],
    ),
    (
        "tables",
        &[
            "class_images",
            "client",
            "contact_sheet",
            "demo",
            "domain",
            "model_folder",
            "photo_file",
            "scoring",
            "serve",
            "stdout",
        ],
    ),
    ("gc", &["db", "domain", "storage"]),
    // What puts it all together: anything.
    ("serve", ANYTHING),
    ("main", ANYTHING),
];

const ANYTHING: &[&str] = &["*"];

/// What a part of a module must not name beyond that: within the engine, no arrow points upward.
const LAYERS: &[(&str, &[&str])] = &[
    ("engine::ops", &["engine::clip", "engine::unet", "engine::vae", "engine::schedulers"]),
    ("engine::ops", ENGINE_METHODS),
    ("engine::clip", &["engine::unet", "engine::vae", "engine::schedulers"]),
    ("engine::clip", ENGINE_METHODS),
    ("engine::unet", &["engine::clip", "engine::vae", "engine::schedulers"]),
    ("engine::unet", ENGINE_METHODS),
    ("engine::vae", &["engine::clip", "engine::unet", "engine::schedulers"]),
    ("engine::vae", ENGINE_METHODS),
    ("engine::schedulers", ENGINE_METHODS),
    ("engine::training", &["engine::custom_diffusion", "engine::sampler"]),
    ("engine::custom_diffusion", &["engine::sampler"]),
];

/// What is built from the networks.
const ENGINE_METHODS: &[&str] =
    &["engine::conditioning", "engine::custom_diffusion", "engine::sampler", "engine::training"];

/// Crates that not everybody may name, and who may.
const CRATES: &[(&str, &[&str])] = &[
    ("axum", &["http", "serve"]),
    ("http_body", &["http"]),
    ("hyper", &["serve"]),
    ("hyper_util", &["serve"]),
    ("tower", &["http", "serve"]),
    ("tower_http", &["http"]),
    ("utoipa", &["domain", "http"]), // the domain derives `ToSchema`
    ("utoipa_axum", &["http"]),
    (
        "sqlx",
        &["app", "db", "domain", "gc", "metrics", "reaper", "serve", "webhook_sender", "worker"],
    ), // the domain derives `sqlx::Type`; the others hold the pool
    ("object_store", &["storage"]),
    ("reqwest", &["client", "storage", "webhook_sender"]),
    (
        "tokio",
        &[
            "app",
            "byte_cache",
            "class_images",
            "cli",
            "client",
            "db",
            "delta_store",
            "demo",
            "few_threads",
            "http",
            "main",
            "metrics",
            "reaper",
            "request_context",
            "serve",
            "storage",
            "tables",
            "text_index",
            "webhook_sender",
            "worker",
        ],
    ),
    ("candle_core", &["bench", "delta_store", "demo", "engine", "worker"]),
];

/// Who has SQL.
const SQL: &str = "db";

/// Where `unsafe` may stand: files, and folders with a slash at their end.
const UNSAFE: &[&str] = &[
    "allocator.rs",
    "main.rs",
    "postgres/",
    "serve/all_devices.rs",
    "shutdown.rs",
    "engine/device.rs",
    "engine/ops/",
    "engine/weights/shard.rs",
];

/// The only files that depend on the feature `cuda`.
const CUDA: [&str; 2] = ["engine/device.rs", "engine/ops/cuda.rs"];

/// Modules of the tables that are not there yet.
const NOT_THERE_YET: &[&str] = &[];

/// What is not yet as the tables want it: a module, and what it names all the same.
const EXCEPTIONS: &[(&str, &str)] = &[];

/// Circles that are there yet: the files of each.
const CIRCLES: &[&[&str]] = &[];

#[test]
fn no_module_reaches_over_its_boundary() {
    let known = Crate::read();
    let mut needed = BTreeSet::new();
    let mut broken = BTreeSet::new();
    for reference in known.references() {
        for (target, rule) in offences(reference) {
            match exception(&reference.module, &target) {
                Some(exception) => drop(needed.insert(exception)),
                None => drop(broken.insert(format!("{} names {target}: {rule}", reference.file))),
            }
        }
    }

    assert!(broken.is_empty(), "these files reach over a boundary:\n{}", lines(&broken));
    let unneeded: BTreeSet<String> = EXCEPTIONS
        .iter()
        .filter(|exception| !needed.contains(*exception))
        .map(|exception| format!("{exception:?}"))
        .collect();
    assert!(unneeded.is_empty(), "these EXCEPTIONS are needed no more:\n{}", lines(&unneeded));
}

#[test]
fn the_tables_list_every_module() {
    let known = Crate::read();
    let listed: BTreeSet<&str> = MODULES.iter().map(|(module, _)| *module).collect();

    let expected: BTreeSet<&str> =
        listed.iter().copied().filter(|module| !NOT_THERE_YET.contains(module)).collect();
    assert_eq!(known.top_level_modules(), expected, "there are, and MODULES has");
    let named = MODULES.iter().chain(CRATES).flat_map(|(_, modules)| *modules);
    for module in named.filter(|module| **module != "*") {
        assert!(listed.contains(module), "a table names `{module}`, which MODULES does not list");
    }
}

#[test]
fn no_files_form_a_circle() {
    let known = Crate::read();
    let mut uses: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for reference in known.references() {
        // A parent that hands on what its children define does not depend on them by that, and a child may use what its
        // parent defines for all of them: a file and its folder are one story. Tests may use anything.
        if reference.path[0] == "crate" && !reference.is_reexport && !reference.is_test {
            let file = known.defining_file(&reference.path);
            let is_ancestor =
                reference.file.starts_with(&format!("{}/", file.trim_end_matches(".rs")));
            if file != reference.file && !is_ancestor {
                uses.entry(&reference.file).or_default().insert(file);
            }
        }
    }

    let circles = circles(&uses);

    let expected = |circle: &BTreeSet<&str>| {
        CIRCLES.iter().any(|known| circle.iter().all(|file| known.contains(file)))
    };
    let new: Vec<String> = circles
        .iter()
        .filter(|circle| !expected(circle))
        .map(|circle| described(circle, &uses))
        .collect();
    assert!(new.is_empty(), "these files need each other:\n{}", lines(&new));
    for known in CIRCLES {
        let is_there = circles.iter().any(|circle| circle.iter().all(|file| known.contains(file)));
        assert!(is_there, "this circle is no more, take it from CIRCLES: {known:?}");
    }
}

#[test]
fn unsafe_code_and_the_feature_cuda_stand_where_they_are_expected() {
    let mut broken = Vec::new();
    for path in sources(&src()) {
        let text = std::fs::read_to_string(&path).unwrap();
        let tokens: TokenStream = text.parse().unwrap();
        let file = path.strip_prefix(src()).unwrap().to_str().unwrap();
        let may_be_unsafe = UNSAFE
            .iter()
            .any(|place| file == *place || (place.ends_with('/') && file.starts_with(place)));
        if has_word(tokens, "unsafe") && !may_be_unsafe {
            broken.push(format!("{file} has unsafe code"));
        }
        if text.lines().any(|line| line.contains("cfg") && line.contains("\"cuda\""))
            && !CUDA.contains(&file)
        {
            broken.push(format!("{file} depends on the feature cuda"));
        }
    }

    assert!(broken.is_empty(), "{}", lines(&broken));
}

#[test]
fn paths_are_resolved_as_the_compiler_resolves_them() {
    let files = [
        ("lib.rs", "pub mod a; pub mod b;"),
        ("a.rs", "mod deep; pub use deep::Thing; pub(crate) mod other;"),
        (
            "a/deep.rs",
            "pub struct Thing; use super::super::b::{self as bee, inner::{Leaf, sub::*}};",
        ),
        ("a/other.rs", "fn f() { crate::b::g(); bee!(super::deep::Thing, ::axum::Router); }"),
        (
            "b.rs",
            "use crate::a::Thing; use sqlx as database; fn g() { database::query(\"\"); Thing }",
        ),
    ];
    let files = files.map(|(file, text)| (file.to_owned(), text.to_owned()));

    let known = Crate::parse(&files);

    let named = |file: &str| -> BTreeSet<String> {
        let of_file = known.references().iter().filter(|reference| reference.file == file);
        of_file.map(|reference| reference.path.join("::")).collect()
    };
    let expected = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
    assert_eq!(
        named("a/deep.rs"),
        expected(&["crate::b", "crate::b::inner::Leaf", "crate::b::inner::sub"])
    );
    assert_eq!(
        named("a/other.rs"),
        expected(&["axum::Router", "crate::a::deep::Thing", "crate::b::g"])
    );
    assert_eq!(named("b.rs"), expected(&["crate::a::Thing", "sqlx", "sqlx::query"]));
    let thing = ["crate", "a", "Thing"].map(str::to_owned);
    assert_eq!(known.defining_file(&thing), "a/deep.rs", "a re-export is followed");
}

#[test]
fn what_the_tables_forbid_is_found() {
    let offends = |file: &str, text: &str| {
        let known = Crate::parse(&[
            ("lib.rs".to_owned(), String::new()),
            (file.to_owned(), text.to_owned()),
        ]);
        known.references().iter().flat_map(offences).map(|(target, _)| target).next()
    };

    assert_eq!(
        offends("engine/x.rs", "use crate::{domain::id, worker::X};").as_deref(),
        Some("worker")
    );
    assert_eq!(offends("engine/x.rs", "fn f() { tokio::spawn(()); }").as_deref(), Some("tokio"));
    assert_eq!(
        offends("app/x.rs", "async fn f() { sqlx::query!(\"\") }").as_deref(),
        Some("sqlx::query")
    );
    assert_eq!(
        offends("engine/training.rs", "use super::custom_diffusion::delta::Delta;").as_deref(),
        Some("engine::custom_diffusion::delta::Delta")
    );
    assert_eq!(offends("http/x.rs", "use crate::app::App; use axum::Router;"), None);
}

#[test]
fn circles_are_found() {
    let uses = BTreeMap::from([
        ("a", BTreeSet::from(["b"])),
        ("b", BTreeSet::from(["c", "d"])),
        ("c", BTreeSet::from(["a"])),
        ("d", BTreeSet::new()),
    ]);

    assert_eq!(circles(&uses), BTreeSet::from([BTreeSet::from(["a", "b", "c"])]));
}

/// What a reference names that it must not, each with the rule.
fn offences(reference: &Reference) -> Vec<(String, &'static str)> {
    let own = top_level(&reference.module);
    let mut offences = Vec::new();
    if reference.path[0] == "crate" {
        let target = reference.path[1..].join("::");
        let other = top_level(&target);
        let is_module = MODULES.iter().any(|(module, _)| *module == other);
        let allowed = row(MODULES, own);
        if is_module && other != own && !allowed.contains(&other) && allowed != ANYTHING {
            offences.push((other.to_owned(), "MODULES does not let it"));
        }
        for (part, above) in LAYERS {
            if is_within(&reference.module, part)
                && above.iter().any(|above| is_within(&target, above))
            {
                offences.push((target.clone(), "this layer lies above it"));
            }
        }
    } else {
        let name = reference.path[0].as_str();
        let is_guarded = CRATES.iter().any(|(guarded, _)| *guarded == name);
        if is_guarded && !row(CRATES, name).contains(&own) {
            offences.push((name.to_owned(), "CRATES does not let it"));
        }
        let is_sql = reference
            .path
            .get(1)
            .is_some_and(|word| word.starts_with("query") || word == "raw_sql");
        if name == "sqlx" && is_sql && own != SQL {
            offences.push((reference.path.join("::"), "SQL stands in db alone"));
        }
    }
    offences
}

fn exception(module: &str, target: &str) -> Option<&'static (&'static str, &'static str)> {
    EXCEPTIONS.iter().find(|(from, to)| is_within(module, from) && is_within(target, to))
}

fn row(table: &'static [(&str, &[&str])], name: &str) -> &'static [&'static str] {
    table.iter().find(|(listed, _)| *listed == name).map_or(&[], |(_, row)| row)
}

fn top_level(path: &str) -> &str {
    path.split("::").next().unwrap()
}

fn is_within(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn has_word(tokens: TokenStream, word: &str) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(name) => name == word,
        TokenTree::Group(group) => has_word(group.stream(), word),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}

/// The strongly connected components of more than one file.
fn circles<'a>(uses: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> BTreeSet<BTreeSet<&'a str>> {
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        uses.keys().map(|file| (*file, reached_from(file, uses))).collect();
    let circle_of = |file: &'a str| -> BTreeSet<&'a str> {
        let others = reached[file].iter().copied();
        others.filter(|other| reached.get(other).is_some_and(|back| back.contains(file))).collect()
    };
    uses.keys().map(|file| circle_of(file)).filter(|circle| circle.len() > 1).collect()
}

fn reached_from<'a>(file: &str, uses: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut waiting: Vec<&str> = uses.get(file).into_iter().flatten().copied().collect();
    while let Some(file) = waiting.pop() {
        if reached.insert(file) {
            waiting.extend(uses.get(file).into_iter().flatten());
        }
    }
    reached
}

/// The circle's files, and whom of them each needs.
fn described(circle: &BTreeSet<&str>, uses: &BTreeMap<&str, BTreeSet<&str>>) -> String {
    let needs = circle.iter().map(|file| {
        let others: Vec<&str> = uses[file].intersection(circle).copied().collect();
        format!("  {file} needs {}", others.join(", "))
    });
    let files: Vec<String> = circle.iter().map(|file| format!("{file:?}")).collect();
    format!("&[{}],\n{}", files.join(", "), needs.collect::<Vec<_>>().join("\n"))
}

fn lines<'a>(items: impl IntoIterator<Item = &'a String>) -> String {
    items.into_iter().map(String::as_str).collect::<Vec<_>>().join("\n")
}
