//! The kernels of `src/engine/ops/cuda/kernels.cu` without a GPU: compiled for the CPU, where threads, warps and tensor cores are
//! emulated, and compared with plain code in f64 and with finite differences.
//!
//! On a GPU, `tests/engine` runs the operations themselves.

use std::path::Path;
use std::process::Command;

#[test]
fn kernels_match_plain_code_in_f64() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda_kernels");
    let (emulator, kernels) = (root.join("tests/cuda_kernels"), root.join("src/engine/ops/cuda"));
    let compiled = Command::new(std::env::var_os("CXX").unwrap_or_else(|| "c++".into()))
        .args(["-std=c++17", "-O1", "-w", "-x", "c++", "-I"])
        .arg(&emulator)
        .arg("-I")
        .arg(&kernels)
        .arg(emulator.join("check.cpp"))
        .arg("-o")
        .arg(&program)
        .output()
        .unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));

    let checked = Command::new(&program).output().unwrap();

    let lines = String::from_utf8_lossy(&checked.stdout);
    println!("{lines}");
    let fail: Vec<&str> = lines.lines().filter(|line| !line.contains("holds")).collect();
    assert!(checked.status.success() && lines.lines().count() > 100, "{fail:?}");
}
