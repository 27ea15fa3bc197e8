//! The manifests, by Kubernetes' own schemas and by what they mean together.

use std::{collections::BTreeSet, fs, path::PathBuf};

use causeway_tests::result::{Failure, Result, ensure};
use serde_json::{Value, json};

use crate::files::{below, documents, is_usable, judge, path, text, told};

fn files() -> Result<Vec<PathBuf>> {
    below(&path("kubernetes"), ".yaml")
}

fn of_kind(kind: &str) -> Result<Value> {
    let all = documents("kubernetes", &files()?)?;
    let found = all.into_iter().find(|document| document["kind"] == kind);
    found.ok_or_else(|| Failure::new(format!("no {kind}")))
}

#[test]
fn every_manifest_is_named_and_of_one_application() -> Result<()> {
    let kustomization = of_kind("Kustomization")?;
    let listed: BTreeSet<&str> =
        kustomization["resources"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let files = files()?;
    let there: BTreeSet<&str> = files
        .iter()
        .filter_map(|file| file.file_name()?.to_str())
        .filter(|name| *name != "kustomization.yaml")
        .collect();
    ensure(listed == there, || format!("{listed:?} are listed, {there:?} are there"))?;
    for document in documents("kubernetes", &files)? {
        let kind = document["kind"].as_str().unwrap_or_default().to_owned();
        if ["Kustomization", "Namespace"].contains(&kind.as_str()) {
            continue;
        }
        let metadata = &document["metadata"];
        ensure(metadata["namespace"] == "causeway" && metadata["name"] == "causeway", || kind.clone())?;
        ensure(metadata["labels"]["app.kubernetes.io/name"] == "causeway", || kind.clone())?;
    }
    Ok(())
}

#[test]
fn a_wrong_manifest_is_noticed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("statefulset.yaml");
    let own = text("kubernetes/statefulset.yaml")?;
    for (right, wrong) in [
        ("readOnlyRootFilesystem: true", "readOnlyRootFileSystem: true"),
        ("replicas: 1", "replicas: one"),
        ("runAsNonRoot: true\n", "runAsNonRoot: true\n        runAsNonRoot: true\n"),
    ] {
        ensure(own.contains(right), || right.to_owned())?;
        fs::write(&file, own.replacen(right, wrong, 1))?;
        let output = judge("kubernetes", std::slice::from_ref(&file))?;
        ensure(!output.status.success(), || format!("nobody minds {wrong:?}: {}", told(&output)))?;
    }
    Ok(())
}

#[test]
fn the_pod_has_no_rights_and_is_probed() -> Result<()> {
    let spec = of_kind("StatefulSet")?["spec"].clone();
    ensure(spec["replicas"] == 1, || "one process may use the data".to_owned())?;
    let pod = &spec["template"]["spec"];
    let container = &pod["containers"][0];
    let own = &container["securityContext"];
    // Kubernetes' pod security standard "restricted".
    for (what, holds) in [
        ("runs as root", pod["securityContext"]["runAsNonRoot"] == true),
        ("no seccomp", pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"),
        ("gains rights", own["allowPrivilegeEscalation"] == false),
        ("capabilities", own["capabilities"]["drop"] == json!(["ALL"])),
        ("writes outside its volume", own["readOnlyRootFilesystem"] == true),
        ("has a token", pod["automountServiceAccountToken"] == false),
    ] {
        ensure(holds, || what.to_owned())?;
    }
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        let asked = &container[probe]["httpGet"];
        ensure(asked["path"] == "/_matrix/client/versions" && asked["port"] == "matrix", || {
            probe.to_owned()
        })?;
    }
    let claims = &spec["volumeClaimTemplates"][0];
    let names = [&claims["metadata"]["name"], &container["volumeMounts"][0]["name"]];
    ensure(names[0] == names[1] && names[0].is_string(), || format!("{names:?}"))?;
    let labels = &spec["template"]["metadata"]["labels"];
    let [service, policy] = [of_kind("Service")?, of_kind("NetworkPolicy")?];
    ensure(&service["spec"]["selector"] == labels, || "the service finds no pod".to_owned())?;
    let selected = &policy["spec"]["podSelector"]["matchLabels"];
    ensure(selected == labels, || "the policy is for no pod".to_owned())
}

/// The server starts with the map's file and the secret's variables, and its ports are
/// those that the pod names.
#[test]
fn the_configuration_is_usable_and_fits_the_pod() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let map = of_kind("ConfigMap")?;
    let config = map["data"]["causeway.toml"].as_str().unwrap_or_default();
    fs::write(folder.path().join("causeway.toml"), config)?;
    let secret = of_kind("Secret")?;
    let variables = secret["stringData"].as_object().into_iter().flatten();
    let variables: Vec<(String, String)> = variables
        .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect();
    ensure(!variables.is_empty(), || "no variables".to_owned())?;
    is_usable(&folder.path().join("causeway.toml"), &variables)?;
    let pod = of_kind("StatefulSet")?["spec"]["template"]["spec"].clone();
    for port in pod["containers"][0]["ports"].as_array().into_iter().flatten() {
        let listener = format!("address = \"0.0.0.0:{}\"", port["containerPort"]);
        ensure(config.contains(&listener), || format!("no {listener}"))?;
    }
    let mounted = pod["containers"][0]["volumeMounts"][0]["mountPath"].as_str().unwrap_or("none");
    ensure(config.contains(&format!("data_folder = \"{mounted}/")), || format!("no data in {mounted}"))
}
