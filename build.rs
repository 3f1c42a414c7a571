//! Tells the crate which engine it is: manifests name it, since another engine may round otherwise.
//!
//! A digest of the engine's sources and of the versions it is built from, so that it is the same wherever the same sources
//! are built, with or without a repository.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

fn main() -> io::Result<()> {
    let mut files = vec![PathBuf::from("Cargo.lock")];
    collect(Path::new("src/engine"), &mut files)?;
    files.push(PathBuf::from("src/engine.rs"));
    files.sort();
    println!("cargo::rerun-if-changed=src/engine");
    println!("cargo::rerun-if-changed=src/engine.rs");
    println!("cargo::rerun-if-changed=Cargo.lock");

    let mut digest = 0xcbf2_9ce4_8422_2325_u64; // FNV-1a
    for file in files {
        let name = file.to_string_lossy().into_owned();
        for byte in name.bytes().chain(fs::read(&file)?) {
            digest = (digest ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    println!("cargo::rustc-env=VSTAR_ENGINE={digest:016x}");
    Ok(())
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() { collect(&path, files)? } else { files.push(path) }
    }
    Ok(())
}
