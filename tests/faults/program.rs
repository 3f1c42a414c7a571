//! The program under test.

use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

/// The one that was built with the tests, or another one that `VSTAR_FAULT_PROGRAM` names.
pub(crate) fn path() -> &'static str {
    static PATH: LazyLock<String> = LazyLock::new(|| {
        std::env::var("VSTAR_FAULT_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_vstar").into())
    });
    &PATH
}

/// A file of the repository.
pub(crate) fn repository(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The first letters of its digest.
pub(crate) fn digest() -> &'static str {
    static DIGEST: LazyLock<String> =
        LazyLock::new(|| sha256(&std::fs::read(path()).unwrap())[..12].to_owned());
    &DIGEST
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(bytes))
}

/// What `vstar COMMAND --help` says, to see which settings there are.
pub(crate) fn help(command: &str) -> String {
    let output = Command::new(path()).args([command, "--help"]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether its HTTP interface describes something.
pub(crate) fn describes(text: &str) -> bool {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
        let output = Command::new(path()).arg("openapi").output().unwrap();
        String::from_utf8_lossy(&output.stdout).to_lowercase()
    });
    DOCUMENT.contains(&text.to_lowercase())
}
