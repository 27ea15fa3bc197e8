//! Sizes and first lines. Functions are found by their indentation: the
//! sources are formatted by rustfmt.

use crate::sources;

/// Lines of a file, tests and comments included.
const FILE_LINES_MAX: usize = 500;
/// Lines of a function, from its `fn` to its closing brace.
const FUNCTION_LINES_MAX: usize = 70;

/// Not finished, or hidden: neither is landed.
const FORBIDDEN: [&str; 5] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X:"),
    concat!("#[al", "low("),
    concat!("dbg", "!("),
];

fn none(found: &[String]) {
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn files_are_short() {
    let found: Vec<String> = sources::all()
        .iter()
        .map(|source| (source.text.lines().count(), &source.path))
        .filter(|(lines, _)| *lines > FILE_LINES_MAX)
        .map(|(lines, path)| format!("{}: {lines} lines, at most {FILE_LINES_MAX}", path.display()))
        .collect();
    none(&found);
}

#[test]
fn functions_are_short() {
    let mut found = Vec::new();
    for source in sources::all() {
        let lines: Vec<&str> = source.text.lines().collect();
        for (start, line) in lines.iter().enumerate().filter(|(_, line)| starts_function(line)) {
            let indent = line.len() - line.trim_start().len();
            let closing = format!("{}}}", " ".repeat(indent));
            let length = lines[start..].iter().position(|line| *line == closing).map_or(0, |end| end + 1);
            let signature_only =
                lines[start..].iter().position(|line| line.ends_with(';')).unwrap_or(usize::MAX)
                    < lines[start..].iter().position(|line| line.ends_with('{')).unwrap_or(usize::MAX);
            if length > FUNCTION_LINES_MAX && !signature_only {
                found.push(format!(
                    "{}:{}: {length} lines, at most {FUNCTION_LINES_MAX}",
                    source.path.display(),
                    start + 1
                ));
            }
        }
    }
    none(&found);
}

fn starts_function(line: &str) -> bool {
    let words = line.trim_start().split(' ');
    let mut words = words
        .skip_while(|word| ["const", "async", "unsafe", "extern"].contains(word) || word.starts_with("pub"));
    words.next() == Some("fn") && !line.trim_end().ends_with('}')
}

#[test]
fn every_file_says_what_it_is() {
    let found: Vec<String> = sources::all()
        .iter()
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| format!("{}: does not begin with //!", source.path.display()))
        .collect();
    none(&found);
}

#[test]
fn nothing_unfinished_is_landed() {
    let mut found = Vec::new();
    for source in sources::all() {
        for (number, line) in source.text.lines().enumerate() {
            if let Some(word) = FORBIDDEN.iter().find(|word| line.contains(**word)) {
                found.push(format!("{}:{}: {word}", source.path.display(), number + 1));
            }
        }
    }
    none(&found);
}
