//! Who may know whom: what a workspace would guard with `[dependencies]`, read off the sources.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders and files below `src`, and words that must not stand in them.
const FORBIDDEN: [(&[&str], &[&str]); 4] = [
    (
        &["engine", "engine.rs"],
        &[
            "axum",
            "sqlx",
            "object_store",
            "tokio",
            "crate::http",
            "crate::db",
            "crate::worker",
            "crate::storage",
        ],
    ),
    (&["http", "http.rs", "db", "db.rs", "domain", "domain.rs"], &["candle"]),
    (
        &["domain", "domain.rs"],
        &[
            "crate::http",
            "crate::db",
            "crate::worker",
            "crate::engine",
            "crate::storage",
            "axum",
            "tokio",
        ],
    ),
    (
        &[
            "http",
            "http.rs",
            "worker",
            "worker.rs",
            "engine",
            "domain",
            "storage.rs",
            "demo",
            "demo.rs",
        ],
        &["sqlx::query"],
    ),
];

#[test]
fn no_module_reaches_over_its_boundary() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut broken = Vec::new();
    for (places, words) in FORBIDDEN {
        for place in places {
            for file in sources(&src.join(place)) {
                let text = fs::read_to_string(&file).unwrap();
                for (number, line) in text.lines().enumerate() {
                    let code = line.split("//").next().unwrap_or_default();
                    for word in words.iter().filter(|word| code.contains(**word)) {
                        broken.push(format!("{}:{}: {word}", file.display(), number + 1));
                    }
                }
            }
        }
    }

    assert!(broken.is_empty(), "these lines reach over a boundary:\n{}", broken.join("\n"));
}

#[test]
fn the_guarded_folders_are_there() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for place in FORBIDDEN.iter().flat_map(|(places, _)| *places) {
        assert!(src.join(place).exists(), "src/{place} is gone: this test would guard nothing");
    }
}

#[test]
fn cuda_is_known_to_the_device_alone() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in sources(&src) {
        let text = fs::read_to_string(&file).unwrap();
        let knows = text.lines().any(|line| line.contains("cfg(") && line.contains("\"cuda\""));
        assert!(
            !knows || file.ends_with("engine/device.rs"),
            "{} depends on the feature cuda",
            file.display()
        );
    }
}

fn sources(place: &Path) -> Vec<PathBuf> {
    if place.is_file() {
        return vec![place.to_owned()];
    }
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.flat_map(|entry| sources(&entry.path())).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "rs"));
    files
}
