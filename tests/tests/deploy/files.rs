//! Files of `deploy/`, the programs that judge them, and the server that reads some.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use causeway_tests::{
    program,
    result::{Doing, Result, ensure},
};
use serde_json::Value;

/// The path of a file or folder of `deploy/`.
pub fn path(name: &str) -> PathBuf {
    program::checkout().join("deploy").join(name)
}

/// A file's text.
pub fn text(name: &str) -> Result<String> {
    fs::read_to_string(path(name)).doing(name)
}

/// Runs a program, which has to succeed; what it printed.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().doing(format!("{command:?}"))?;
    ensure(output.status.success(), || format!("{command:?}: {}", told(&output)))?;
    Ok(told(&output))
}

/// All that a program said.
pub fn told(output: &Output) -> String {
    let [out, error] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{out}{error}")
}

/// Has `tests/deploy/judge.py` look at files: by which schema, and its word.
pub fn judge(schema: &str, files: &[PathBuf]) -> Result<Output> {
    let script = program::checkout().join("tests/deploy/judge.py");
    let mut python = Command::new(program::deploy_tools()?.join("venv/bin/python"));
    Ok(python.arg(script).arg(schema).args(files).output()?)
}

/// The documents of YAML files, if they are as `schema` says.
pub fn documents(schema: &str, files: &[PathBuf]) -> Result<Vec<Value>> {
    let output = judge(schema, files)?;
    ensure(output.status.success(), || told(&output))?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Every file below `folder` whose name ends so, sorted.
pub fn below(folder: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).doing(folder.display())? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(below(&path, ending)?);
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Whether the server takes this configuration, with these variables.
pub fn is_usable(config: &Path, variables: &[(String, String)]) -> Result<()> {
    let mut server = Command::new(program::server()?);
    run(server.args(["check-config", "--config"]).arg(config).envs(variables.iter().cloned())).map(drop)
}
