//! Tells the crate which engine it is, and which files of `web/` it serves.
//!
//! Manifests name the engine, since another one may round otherwise. Its name is a digest of the engine's sources and of the versions
//! it is built from, so that it is the same wherever the same sources are built, with or without a repository. With the
//! feature `cuda`, our kernels are compiled as well.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() -> io::Result<()> {
    engine()?;
    web()
}

fn engine() -> io::Result<()> {
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
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        compile_kernels()?;
    }
    Ok(())
}

/// What a browser loads. Other files of `web/`, such as licences, stay in the repository.
const SERVED: [&str; 5] = ["css", "html", "js", "svg", "woff2"];

/// Writes a list of the files of `web/` with their bytes, sorted by path.
fn web() -> io::Result<()> {
    println!("cargo::rerun-if-changed=web");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("web");
    let mut files = Vec::new();
    collect(&root, &mut files)?;
    files.retain(|file| {
        file.extension().is_some_and(|ending| SERVED.iter().any(|it| *it == ending))
    });
    files.sort();
    let mut list = String::from("[\n");
    for file in files {
        let path = file.strip_prefix(&root).map_err(io::Error::other)?;
        list += &format!(
            "    ({:?}, include_bytes!({:?}) as &[u8]),\n",
            path.display().to_string(),
            file
        );
    }
    list += "]\n";
    fs::write(PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("web.rs"), list)
}

/// Compiles our kernels to PTX, which the driver compiles for its card, with the compiler that candle's kernels are compiled with.
fn compile_kernels() -> io::Result<()> {
    println!("cargo::rerun-if-env-changed=NVCC");
    println!("cargo::rerun-if-env-changed=CUDA_COMPUTE_CAP");
    let compiler = env::var_os("NVCC").unwrap_or_else(|| "nvcc".into());
    let capability = env::var("CUDA_COMPUTE_CAP").unwrap_or_else(|_| "80".to_owned());
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("kernels.ptx");
    let status = Command::new(&compiler)
        .args(["-ptx", "-O3", &format!("-arch=compute_{capability}"), "-o"])
        .arg(out)
        .arg("src/engine/ops/cuda/kernels.cu")
        .status()
        .map_err(|error| io::Error::other(format!("{}: {error}", compiler.display())))?;
    match status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("{}: {status}", compiler.display()))),
    }
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() { collect(&path, files)? } else { files.push(path) }
    }
    Ok(())
}
