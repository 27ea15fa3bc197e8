//! No circle of imports among the modules of a crate.
//!
//! At every level of the module tree: if something below `a` imports something
//! below its sibling `b`, nothing below `b` may lead back to `a`. A parent and
//! its child are one thing in two files and may name each other.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use crate::sources::{self, Source};

/// Modules of a crate: path (`["rooms", "state"]`) to the paths that it names.
type Modules = BTreeMap<Vec<String>, BTreeSet<Vec<String>>>;

#[test]
fn no_import_circles() {
    let mut crates: BTreeMap<String, Vec<Source>> = BTreeMap::new();
    for source in sources::all() {
        let path = source.path.display().to_string();
        if let Some((root, _)) = path.split_once("/src/") {
            crates.entry(root.to_owned()).or_default().push(source);
        }
    }
    let mut circles = Vec::new();
    for (root, sources) in &crates {
        let modules = modules(root, sources);
        circles.extend(levels(&modules).iter().filter_map(|level| circle(root, level)));
    }
    assert!(circles.is_empty(), "\n{}\n", circles.join("\n"));
}

fn modules(root: &str, sources: &[Source]) -> Modules {
    sources
        .iter()
        .filter_map(|source| {
            let own = module_of(root, &source.path)?;
            Some((own.clone(), named(&own, source.without_tests())))
        })
        .collect()
}

/// `server/src/config/mod.rs` is `["config"]`; binaries of a crate are no part of it.
fn module_of(root: &str, path: &Path) -> Option<Vec<String>> {
    let inside = path.strip_prefix(format!("{root}/src")).ok()?.with_extension("");
    let mut parts: Vec<String> = inside.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts.first().is_some_and(|first| first == "bin") {
        return None;
    }
    if parts.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        parts.pop();
    }
    Some(parts)
}

/// Every path that begins with `crate::` or `super::`, as path from the crate's root.
fn named(own: &[String], text: &str) -> BTreeSet<Vec<String>> {
    let code: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(|line| line.split(" // ").next().unwrap_or(line))
        .collect::<Vec<_>>()
        .join("\n");
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let starts_word = !code[..at].ends_with(|c: char| c.is_alphanumeric() || "_$".contains(c));
        if starts_word {
            expand(&code[at + "crate::".len()..], &[], &mut found);
        }
    }
    for (at, _) in code.match_indices("super::") {
        if code[..at].ends_with("super::") {
            continue;
        }
        let ups = code[at..].split("super::").take_while(|between| between.is_empty()).count().max(1);
        let base = &own[..own.len().saturating_sub(ups)];
        expand(&code[at + ups * "super::".len()..], base, &mut found);
    }
    found
}

/// Reads `a::{b, c::d}` and adds every path in it below `base`.
fn expand<'a>(mut text: &'a str, base: &[String], found: &mut BTreeSet<Vec<String>>) -> &'a str {
    let mut path = base.to_vec();
    loop {
        text = text.trim_start();
        if let Some(inner) = text.strip_prefix('{') {
            text = inner;
            loop {
                text = expand(text, &path, found).trim_start();
                let Some(rest) = text.strip_prefix(',') else { break };
                text = rest;
            }
            return text.strip_prefix('}').unwrap_or(text);
        }
        let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        if !word.is_empty() {
            path.push(word.to_owned());
        }
        text = rest;
        match text.strip_prefix("::") {
            Some(rest) if !word.is_empty() => text = rest,
            _ => {
                found.insert(path);
                let alias = text.trim_start();
                return alias
                    .strip_prefix("as ")
                    .map_or(text, |rest| rest.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_'));
            }
        }
    }
}

/// For each parent, which of its children import which.
fn levels(modules: &Modules) -> Vec<BTreeMap<String, BTreeSet<String>>> {
    let mut levels: BTreeMap<Vec<String>, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for (own, named) in modules {
        for target in named {
            let shared = own.iter().zip(target).take_while(|(a, b)| a == b).count();
            let (Some(from), Some(to)) = (own.get(shared), target.get(shared)) else { continue };
            let sibling = [&own[..shared], std::slice::from_ref(to)].concat();
            let exists = modules.keys().any(|module| module.starts_with(&sibling));
            if exists {
                let level = levels.entry(own[..shared].to_vec()).or_default();
                level.entry(from.clone()).or_default().insert(to.clone());
            }
        }
    }
    levels.into_values().collect()
}

/// A circle of one level, as `a -> b -> a`.
fn circle(root: &str, level: &BTreeMap<String, BTreeSet<String>>) -> Option<String> {
    level.keys().find_map(|start| {
        let path = way_back(level, start, start, &mut BTreeSet::new())?;
        Some(format!("{root}: {start} -> {}", path.join(" -> ")))
    })
}

fn way_back(
    level: &BTreeMap<String, BTreeSet<String>>,
    from: &str,
    goal: &str,
    seen: &mut BTreeSet<String>,
) -> Option<Vec<String>> {
    for next in level.get(from).into_iter().flatten() {
        if next == goal {
            return Some(vec![goal.to_owned()]);
        }
        if seen.insert(next.clone())
            && let Some(mut rest) = way_back(level, next, goal, seen)
        {
            rest.insert(0, next.clone());
            return Some(rest);
        }
    }
    None
}

#[test]
fn paths_are_read_out_of_nested_imports() {
    let own = ["config".to_owned(), "sections".to_owned()];
    let text =
        "use crate::{a::{B, c::D}, e};\nuse super::{x as y, z::Z};\n// crate::never\nlet f = crate::g::h();";
    let found: Vec<String> = named(&own, text).iter().map(|path| path.join("::")).collect();
    assert_eq!(found, ["a::B", "a::c::D", "config::x", "config::z::Z", "e", "g::h"]);
}

#[test]
fn a_circle_is_found() {
    let edge = |to: &str| BTreeSet::from([to.to_owned()]);
    let level = BTreeMap::from([
        ("a".to_owned(), edge("b")),
        ("b".to_owned(), edge("c")),
        ("c".to_owned(), edge("b")),
    ]);
    assert_eq!(circle("x", &level).as_deref(), Some("x: b -> c -> b"));
}
