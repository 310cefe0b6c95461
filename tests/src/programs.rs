//! Where the programs are that are tested: beside the test's own, freshly built.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let me = std::env::current_exe().expect("a test's own path is known");
    let mut folder = me.parent().expect("a program is in a folder").to_owned();
    if folder.ends_with("deps") {
        folder.pop();
    }
    // nextest runs each test in a process of its own: whoever runs it has built the programs once, before.
    if std::env::var_os("NEXTEST").is_none() {
        build(&folder);
    }
    folder
});

/// The broker's program.
pub fn countersign() -> PathBuf {
    FOLDER.join("countersign")
}

/// The device simulator's.
pub fn device_sim() -> PathBuf {
    FOLDER.join("device-sim")
}

/// Cargo does nothing here when the programs are new enough: nobody tests an old one by mistake.
fn build(folder: &Path) {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", "countersign", "--package", "device-sim", "--bins"]);
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    let done = cargo.status().expect("cargo, which runs this, can be run");
    assert!(done.success(), "the programs cannot be built");
}
