//! The composition of two federating servers and what observes them, by the schema of
//! compose files and by the programs that its files are for; and the proxies' examples.

use std::{collections::BTreeSet, fs, process::Command};

use causeway_tests::{
    program,
    result::{Failure, Result, ensure},
};
use serde_json::{Value, json};

use crate::files::{documents, is_usable, judge, path, run, text, told};

fn composition() -> Result<Value> {
    let read = documents("compose", &[path("compose/compose.yaml")])?;
    read.into_iter().next().ok_or_else(|| Failure::new("nothing in it"))
}

/// An object's entries; none of what is no object.
fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn words(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}

#[test]
fn the_composition_is_one() -> Result<()> {
    let file = composition()?;
    let volumes: BTreeSet<&String> = entries(&file["volumes"]).map(|(name, _)| name).collect();
    let mut used = BTreeSet::new();
    for (name, service) in entries(&file["services"]) {
        for mount in words(&service["volumes"]) {
            let source = mount.split(':').next().unwrap_or_default();
            if source.starts_with('.') {
                let found = path("compose").join(source);
                ensure(found.exists(), || format!("{name} mounts {}", found.display()))?;
            } else {
                used.insert(source.to_owned());
            }
        }
        for port in words(&service["ports"]) {
            ensure(port.starts_with("127.0.0.1:"), || format!("{name} publishes {port} to everybody"))?;
        }
        let image = service["image"].as_str().unwrap_or_default();
        ensure(!image.split_once('/').is_some_and(|(host, _)| host.contains('.')), || image.to_owned())?;
        for (needed, _) in entries(&service["depends_on"]) {
            ensure(file["services"][needed].is_object(), || format!("{name} needs {needed}"))?;
        }
    }
    ensure(used.iter().collect::<BTreeSet<_>>() == volumes, || format!("{used:?} of {volumes:?}"))?;
    let dockerfile = program::checkout().join("deploy/docker/Dockerfile");
    ensure(dockerfile.exists(), || "no Dockerfile".to_owned())
}

#[test]
fn a_composition_that_is_none_is_noticed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("compose.yaml");
    let own = text("compose/compose.yaml")?;
    for (right, wrong) in [("entrypoint:", "entrypiont:"), ("proxy: {}\n", ""), ("name: causeway", "name: 1")]
    {
        ensure(own.contains(right), || right.to_owned())?;
        fs::write(&file, own.replacen(right, wrong, 1))?;
        let output = judge("compose", std::slice::from_ref(&file))?;
        ensure(!output.status.success(), || format!("nobody minds {wrong:?}: {}", told(&output)))?;
    }
    Ok(())
}

/// Both servers start with the file and their variables, under their own names, which
/// the proxy answers for and which lead to it.
#[test]
fn both_servers_of_the_composition_are_configured() -> Result<()> {
    let file = composition()?;
    let proxy = text("compose/Caddyfile")?;
    let aliases = file["services"]["proxy"]["networks"]["matrix"]["aliases"].clone();
    for server in ["north", "south"] {
        let variables = entries(&file["services"][server]["environment"]);
        // YAML's `<<` is left to whoever reads it.
        let own = variables.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
        let mut variables: Vec<(String, String)> = own.collect();
        let tokens = file["x-environment"]["CAUSEWAY_REGISTRATION__TOKENS"].as_str().unwrap_or_default();
        let tokens = tokens.replace("${REGISTRATION_TOKEN:?see .env.example}", "a token");
        ensure(tokens == "[\"a token\"]", || tokens.clone())?;
        variables.push(("CAUSEWAY_REGISTRATION__TOKENS".to_owned(), tokens));
        let name = format!("{server}.test");
        ensure(variables.contains(&("CAUSEWAY_SERVER_NAME".to_owned(), name.clone())), || name.clone())?;
        is_usable(&path("compose/causeway.toml"), &variables)?;
        ensure(words(&aliases).any(|alias| alias == name), || format!("no alias {name}"))?;
        let site = format!("\n{name}, {name}:8448 {{\n\treverse_proxy {server}:8008\n}}\n");
        ensure(proxy.contains(&site), || format!("no site {name}"))?;
    }
    ensure(aliases == json!(["north.test", "south.test"]), || aliases.to_string())
}

#[test]
fn the_proxies_examples_are_right_and_tidy() -> Result<()> {
    let caddy = program::deploy_tools()?.join("usr/bin/caddy");
    for name in ["caddy/Caddyfile", "compose/Caddyfile"] {
        let folder = tempfile::tempdir()?;
        let mut validate = Command::new(&caddy);
        for variable in ["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
            validate.env(variable, folder.path());
        }
        run(validate.args(["validate", "--adapter", "caddyfile", "--config"]).arg(path(name)))?;
        let formatted = Command::new(&caddy).arg("fmt").arg(path(name)).output()?;
        ensure(String::from_utf8_lossy(&formatted.stdout) == text(name)?, || format!("caddy fmt {name}"))?;
    }
    Ok(())
}

/// The image runs without rights, and says whether it is well.
#[test]
fn the_image_is_run_as_a_user() -> Result<()> {
    let file = text("docker/Dockerfile")?;
    let last = file.rsplit("\nFROM ").next().unwrap_or_default();
    for wanted in [
        "\nUSER 10001:10001\n",
        "\nVOLUME /var/lib/causeway\n",
        "CMD [\"causeway\", \"health\"]",
        "\nENTRYPOINT [\"causeway\"]\nCMD [\"serve\"]",
    ] {
        ensure(last.contains(wanted), || format!("no {wanted:?} in:\n{last}"))?;
    }
    // What its build needs of the checkout is let in.
    let ignored = fs::read_to_string(program::checkout().join(".dockerignore"))?;
    let members: toml::Table = fs::read_to_string(program::checkout().join("Cargo.toml"))?.parse()?;
    for member in members["workspace"]["members"].as_array().into_iter().flatten() {
        let folder = member.as_str().unwrap_or_default().split('/').next().unwrap_or_default();
        ensure(ignored.contains(&format!("!{folder}\n")), || format!("{folder} is kept out of the image"))?;
    }
    Ok(())
}
