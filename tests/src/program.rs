//! Where the server's binary is.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use crate::result::{Failure, Result, ensure};

/// Names the binary to test, instead of the one of this checkout.
const VARIABLE: &str = "TESTED_SERVER";

/// The binary of this checkout, built in the same profile as the caller, or the
/// one that `TESTED_SERVER` names.
pub fn server() -> Result<PathBuf> {
    static BUILT: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            std::env::var_os(VARIABLE)
                .map_or_else(|| build().map_err(|error| error.to_string()), |path| Ok(PathBuf::from(path)))
        })
        .clone()
        .map_err(Failure::new)
}

/// The client program over matrix-rust-sdk in `tests/rust-sdk`, built on first
/// use into a folder of its own.
pub fn rust_sdk_client() -> Result<PathBuf> {
    let folder = target()?.join("rust-sdk");
    let manifest = checkout().join("tests/rust-sdk/Cargo.toml");
    let mut command = cargo();
    command.args(["build", "--quiet", "--locked", "--manifest-path"]).arg(manifest);
    command.arg("--target-dir").arg(&folder);
    // Settings for the workspace, which this is not part of.
    command.env_remove("CARGO_RESOLVER_FEATURE_UNIFICATION");
    ensure(command.status()?.success(), || "the client can't be built".to_owned())?;
    Ok(folder.join("debug/rust-sdk-client"))
}

/// The Python of the environment with matrix-nio and Synapse, made on first use.
pub fn python() -> Result<PathBuf> {
    let folder = target()?.join("interop-venv");
    let made = Command::new(checkout().join("scripts/interop-venv.sh")).arg(&folder).status()?;
    ensure(made.success(), || "the Python environment can't be made".to_owned())?;
    Ok(folder.join("bin/python"))
}

/// The folder with what the tests of `deploy/` need (nginx, Caddy, Prometheus below
/// `usr`, Python in `venv`), made on first use.
pub fn deploy_tools() -> Result<PathBuf> {
    let folder = target()?.join("deploy-tools");
    let made = Command::new(checkout().join("scripts/deploy-tools.sh")).arg(&folder).status()?;
    ensure(made.success(), || "the tools for deploy/ can't be had".to_owned())?;
    Ok(folder)
}

/// The folder of the checkout.
pub fn checkout() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}

/// The folder that this process was built into: `target` or what stands for it.
pub fn target() -> Result<PathBuf> {
    let profile = profile_folder()?;
    profile.parent().map(Path::to_owned).ok_or_else(|| Failure::new("no target folder"))
}

/// `target/debug` or `target/release`: tests lie one folder deeper than tools.
fn profile_folder() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().ok_or_else(|| Failure::new("no folder of the own binary"))?;
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    Ok(folder.to_owned())
}

fn build() -> Result<PathBuf> {
    let profile = profile_folder()?;
    let mut command = cargo();
    command.current_dir(checkout()).args([
        "build",
        "--quiet",
        "--workspace",
        "--bin",
        "causeway",
        "--target-dir",
    ]);
    command.arg(target()?);
    if profile.ends_with("release") {
        command.arg("--release");
    }
    ensure(command.status()?.success(), || "the server can't be built".to_owned())?;
    Ok(profile.join("causeway"))
}

/// Cargo, without what it says to the tests that it runs: that would make it
/// compile whatever depends on such a variable again, and once more the next time.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let of_this_crate = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_", "CARGO_PRIMARY_"];
        if name.to_str().is_some_and(|name| of_this_crate.iter().any(|prefix| name.starts_with(prefix))) {
            command.env_remove(&name);
        }
    }
    command
}
