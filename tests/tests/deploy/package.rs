//! The Debian package: built by `cargo deb` as the manifest says, installed, run, upgraded
//! and purged by `tests/deploy/package.sh` in a view of this machine's own system.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use causeway_tests::{
    program,
    result::{Doing, Result, ensure, skipped},
};

use crate::files::{run, told};

/// What the script ends with where a machine does not allow such views.
const REFUSED: i32 = 3;

/// Builds the package of the server that is tested, without what only debuggers read.
fn package(folder: &Path) -> Result<PathBuf> {
    let target = folder.join("target");
    fs::create_dir_all(target.join("release"))?;
    let mut strip = Command::new("strip");
    run(strip.arg("-o").arg(target.join("release/causeway")).arg(program::server()?))?;
    let file = folder.join("causeway.deb");
    let mut build = program::cargo();
    build.env("CARGO_TARGET_DIR", &target).current_dir(program::checkout());
    // Cargo looks for the subcommand there, too.
    let path = std::env::var("PATH").unwrap_or_default();
    let tools = program::deploy_tools()?.join("bin");
    build.env("PATH", format!("{}:{path}", tools.display()));
    build.args(["deb", "--package", "causeway", "--no-build", "--no-strip", "--fast", "--output"]);
    run(build.arg(&file)).doing("cargo deb")?;
    Ok(file)
}

#[test]
fn the_package_is_installed_run_and_purged() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = package(folder.path())?;
    let names = run(Command::new("dpkg-deb").arg("--contents").arg(&file))?;
    for line in names.lines() {
        let owner = line.split_whitespace().nth(1);
        ensure(owner == Some("0/0"), || format!("whose is that: {line}"))?;
    }
    let view = folder.path().join("view");
    fs::create_dir(&view)?;
    let mut trial = Command::new(program::checkout().join("tests/deploy/package.sh"));
    let output = trial.arg(&file).arg(&view).output()?;
    if output.status.code() == Some(REFUSED) {
        return skipped("installing the Debian package", told(&output).trim());
    }
    ensure(output.status.success(), || told(&output))
}
