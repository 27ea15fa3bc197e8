//! Who may depend on whom.

use std::{collections::BTreeSet, fs, process::Command};

use causeway_tests::program::checkout;
use serde_json::Value;

/// A crate of the workspace and those that it may see.
const MAY_SEE: [(&str, &[&str]); 10] = [
    (
        "causeway",
        &[
            "causeway-appservice",
            "causeway-client-api",
            "causeway-federation",
            "causeway-service",
            "causeway-storage",
        ],
    ),
    ("causeway-appservice", &["causeway-service"]),
    ("causeway-client-api", &["causeway-service", "causeway-shared-space"]),
    (
        "causeway-federation",
        &["causeway-service", "causeway-replication", "causeway-room", "causeway-shared-space"],
    ),
    (
        "causeway-service",
        &["causeway-storage", "causeway-replication", "causeway-room", "causeway-shared-space"],
    ),
    ("causeway-storage", &["causeway-replication", "causeway-room", "causeway-shared-space"]),
    ("causeway-replication", &["causeway-shared-space"]),
    ("causeway-room", &[]),
    ("causeway-shared-space", &[]),
    (
        "causeway-tests",
        &[
            "causeway-replication",
            "causeway-room",
            "causeway-service",
            "causeway-shared-space",
            "causeway-storage",
        ],
    ),
];

/// The crates that only decide, and all that they may use from outside: no
/// clock, randomness, task, lock, file or socket is among them.
const PURE: [&str; 3] = ["causeway-shared-space", "causeway-room", "causeway-replication"];
const PURE_MAY_USE: [&str; 9] = [
    "base64",
    "causeway-shared-space",
    "const-hex",
    "ruma",
    "serde",
    "serde_json",
    "sha2",
    "thiserror",
    "zstd",
];

/// What the pure crates may not name, whoever re-exports it.
const IMPURE: [&str; 8] = [
    "std::thread",
    "std::sync::Mutex",
    "std::fs",
    "std::net",
    "SystemTime",
    "Instant::now",
    "async fn",
    "MilliSecondsSinceUnixEpoch::now",
];

fn packages() -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(checkout())
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .output()
        .expect("cargo runs");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    metadata["packages"].as_array().expect("packages").clone()
}

/// The names of what a package needs to be built (not to be tested).
fn dependencies(package: &Value) -> BTreeSet<String> {
    let all = package["dependencies"].as_array().into_iter().flatten();
    all.filter(|dependency| dependency["kind"].is_null())
        .filter_map(|dependency| dependency["name"].as_str().map(str::to_owned))
        .collect()
}

#[test]
fn crates_see_only_what_they_may() {
    let packages = packages();
    let names: BTreeSet<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    assert_eq!(names, MAY_SEE.iter().map(|(name, _)| *name).collect(), "a crate is missing in the table");
    for package in &packages {
        let name = package["name"].as_str().expect("named");
        let (_, allowed) = MAY_SEE.iter().find(|(known, _)| *known == name).expect("in the table");
        for dependency in dependencies(package).iter().filter(|name| name.starts_with("causeway")) {
            assert!(allowed.contains(&dependency.as_str()), "{name} must not depend on {dependency}");
        }
    }
}

#[test]
fn the_pure_crates_use_nothing_impure() {
    for package in packages() {
        let name = package["name"].as_str().expect("named").to_owned();
        if PURE.contains(&name.as_str()) {
            for dependency in dependencies(&package) {
                assert!(PURE_MAY_USE.contains(&dependency.as_str()), "{name} must not use {dependency}");
            }
        }
    }
    for source in crate::sources::all() {
        let path = source.path.display().to_string();
        let pure = ["server/shared-space/src", "server/room/src", "federation/replication/src"];
        if pure.iter().any(|folder| path.starts_with(folder)) && !path.contains("/bin/") {
            for word in IMPURE {
                assert!(!source.without_tests().contains(word), "{path} must not use {word}");
            }
        }
    }
}

#[test]
fn no_clippy_configuration_of_a_crate_drops_the_bans() {
    let root = fs::read_to_string(checkout().join("clippy.toml")).expect("readable");
    let bans: Vec<&str> =
        root.lines().filter_map(|line| line.split("path = \"").nth(1)?.split('"').next()).collect();
    assert!(!bans.is_empty());
    for package in packages() {
        let manifest = package["manifest_path"].as_str().expect("a path");
        let own = manifest.replace("Cargo.toml", "clippy.toml");
        if let Ok(text) = fs::read_to_string(&own) {
            for ban in &bans {
                assert!(text.contains(ban), "{own} replaces the root's and must repeat {ban}");
            }
        }
    }
}

/// Features of every dependency, as building selects them with or without tests.
fn features(edges: &str) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(checkout())
        .args(["tree", "--workspace", "--offline", "--prefix", "none"])
        .args(["--format", "{p} {f}", "--edges", edges])
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(|line| line.replace(" (*)", "")).collect()
}

#[test]
fn tests_select_no_other_features_than_the_server() {
    let building = features("normal,build");
    let testing = features("normal,build,dev");
    let differing: Vec<_> = building.difference(&testing).collect();
    assert!(differing.is_empty(), "compiled twice, because tests ask for more of them: {differing:?}");
}
