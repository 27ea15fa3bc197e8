//! What `cargo deb` is told: every file that the package shall hold is there, its scripts
//! are scripts, and what it installs is where the other files look for it. The package
//! itself is built in `package.rs`.

use std::{collections::BTreeMap, fs, process::Command};

use causeway_tests::{
    program,
    result::{Doing, Result, ensure},
};
use toml::{Table, Value};

use crate::files::{run, text};

fn metadata() -> Result<Table> {
    let manifest: Table = fs::read_to_string(program::checkout().join("server/Cargo.toml"))?.parse()?;
    Ok(manifest["package"]["metadata"]["deb"].as_table().cloned().unwrap_or_default())
}

fn words(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Where each file of the package comes from, by where it goes.
fn assets() -> Result<BTreeMap<String, String>> {
    let metadata = metadata()?;
    let assets = metadata["assets"].as_array().cloned().unwrap_or_default();
    Ok(assets
        .iter()
        .map(words)
        .filter_map(|words| match <[String; 3]>::try_from(words) {
            Ok([from, to, _]) => Some((to, from)),
            Err(_) => None,
        })
        .collect())
}

#[test]
fn all_that_the_package_holds_is_there() -> Result<()> {
    let own = program::checkout().join("server");
    let assets = assets()?;
    ensure(assets.len() > 5, || format!("{assets:?}"))?;
    for from in assets.values().filter(|from| !from.starts_with("target/release/")) {
        let from = from.replace("/*.json", "");
        ensure(own.join(&from).exists(), || format!("no {from}"))?;
    }
    let metadata = metadata()?;
    for configuration in words(&metadata["conf-files"]) {
        let to = configuration.trim_start_matches('/').to_owned();
        ensure(assets.contains_key(&to), || format!("{to} is not in the package"))?;
    }
    for name in ["license-file", "maintainer-scripts"] {
        let path = metadata[name].as_str().map_or_else(|| words(&metadata[name])[0].clone(), str::to_owned);
        ensure(own.join(&path).exists(), || format!("no {path}"))?;
    }
    Ok(())
}

#[test]
fn its_scripts_are_scripts() -> Result<()> {
    for name in ["postinst", "prerm", "postrm"] {
        let script = text(&format!("debian/{name}"))?;
        // Where cargo deb puts what enables, starts and stops the unit.
        ensure(script.contains("\n#DEBHELPER#\n"), || script.clone())?;
        run(Command::new("sh").arg("-n").arg(crate::files::path("debian").join(name))).doing(name)?;
    }
    Ok(())
}

#[test]
fn the_unit_finds_what_the_package_installs() -> Result<()> {
    let (unit, assets, metadata) = (text("systemd/causeway.service")?, assets()?, metadata()?);
    ensure(assets.get("usr/bin/").is_some_and(|from| from == "target/release/causeway"), || {
        format!("{assets:?}")
    })?;
    ensure(unit.contains("ExecStart=/usr/bin/causeway "), || unit.clone())?;
    for folder in ["sysusers.d", "tmpfiles.d"] {
        let installed = assets.get(&format!("usr/lib/{folder}/causeway.conf"));
        // `cargo deb` has its scripts call it by the name that it has here.
        let from = format!("{folder}/causeway.conf");
        ensure(installed.is_some_and(|path| path.ends_with(&from)), || format!("{folder}: {installed:?}"))?;
    }
    ensure(unit.contains("EnvironmentFile=-/etc/default/causeway\n"), || unit.clone())?;
    let units = &metadata["systemd-units"][0];
    let scripts = program::checkout().join("server").join(units["unit-scripts"].as_str().unwrap_or_default());
    let name = units["unit-name"].as_str().unwrap_or_default();
    ensure(scripts.join(format!("{name}.service")).exists(), || format!("no unit {name}"))
}
