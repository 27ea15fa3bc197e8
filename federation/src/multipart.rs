//! `multipart/mixed` as files travel in it: few parts, all in memory.
//!
//! Not a general parser: no nesting, no folded headers, bounded parts and
//! headers. A file is never copied.

use bytes::Bytes;

/// Parts that are looked at.
const PARTS_MAX: usize = 8;
/// Headers of one part that are looked at.
const HEADERS_MAX: usize = 32;
/// Longest boundary (RFC 2046), in bytes.
const BOUNDARY_BYTES_MAX: usize = 70;

/// A part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    headers: Vec<(String, String)>,
    /// Its content.
    pub body: Bytes,
}

impl Part {
    /// A part with these headers.
    pub fn new(headers: &[(&str, &str)], body: Bytes) -> Self {
        let owned = |(name, value): &(&str, &str)| (name.to_ascii_lowercase(), (*value).to_owned());
        Self { headers: headers.iter().map(owned).collect(), body }
    }

    /// The value of a header, by lower-case name.
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers.iter().find(|(held, _)| held == name).map(|(_, value)| value.clone())
    }
}

/// The boundary that a `Content-Type` names.
pub fn boundary(content_type: &str) -> Option<String> {
    let mut parameters = content_type.split(';');
    if !parameters.next()?.trim().eq_ignore_ascii_case("multipart/mixed") {
        return None;
    }
    let boundary = parameters.find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"').to_owned())
    })?;
    (!boundary.is_empty() && boundary.len() <= BOUNDARY_BYTES_MAX).then_some(boundary)
}

/// The parts of `body`, or `None` if it is not well-formed.
pub fn parse(body: &Bytes, boundary: &str) -> Option<Vec<Part>> {
    let delimiter = format!("--{boundary}");
    let mut parts = Vec::new();
    // What is before the first delimiter is for people.
    let mut at = find(body, delimiter.as_bytes(), 0)? + delimiter.len();
    let next = format!("\r\n{delimiter}");
    while !body[at..].starts_with(b"--") {
        if parts.len() >= PARTS_MAX {
            return None;
        }
        let start = find(body, b"\r\n", at)? + 2;
        let (headers, content) = headers(body, start)?;
        let end = find(body, next.as_bytes(), content.saturating_sub(2))?;
        parts.push(Part { headers, body: body.slice(content.min(end)..end) });
        at = end + next.len();
    }
    Some(parts)
}

/// The headers that begin at `at`, and where the content does.
fn headers(body: &Bytes, mut at: usize) -> Option<(Vec<(String, String)>, usize)> {
    let mut headers = Vec::new();
    loop {
        let end = find(body, b"\r\n", at)?;
        if end == at {
            return Some((headers, end + 2));
        }
        if headers.len() >= HEADERS_MAX {
            return None;
        }
        let line = std::str::from_utf8(&body[at..end]).ok()?;
        let (name, value) = line.split_once(':')?;
        headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        at = end + 2;
    }
}

fn find(body: &[u8], what: &[u8], from: usize) -> Option<usize> {
    let rest = body.get(from..)?;
    let first = *what.first()?;
    let mut at = 0;
    while let Some(step) = rest.get(at..)?.iter().position(|&byte| byte == first) {
        at += step;
        if rest[at..].starts_with(what) {
            return Some(from + at);
        }
        at += 1;
    }
    None
}

/// `parts` as a body. `boundary` must not occur in them.
pub fn write(parts: &[Part], boundary: &str) -> Bytes {
    let mut body = Vec::with_capacity(parts.iter().map(|part| part.body.len() + 256).sum());
    for part in parts {
        body.extend_from_slice(format!("\r\n--{boundary}\r\n").as_bytes());
        for (name, value) in &part.headers {
            body.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        body.extend_from_slice(b"\r\n");
        body.extend_from_slice(&part.body);
    }
    body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    body.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let parts = vec![
            Part::new(&[("Content-Type", "application/json")], Bytes::from_static(b"{}")),
            Part::new(
                &[("Content-Type", "image/png"), ("X", "a:b")],
                Bytes::from_static(b"\r\n--no\r\n\r\n\0"),
            ),
            Part::new(&[], Bytes::new()),
        ];
        let body = write(&parts, "xyz");
        assert_eq!(parse(&body, "xyz").expect("well-formed"), parts);
        assert_eq!(parts[1].header("x").as_deref(), Some("a:b"));
    }

    #[test]
    fn other_servers_forms_are_read() {
        let body = Bytes::from_static(
            b"preamble\r\n--b\r\nContent-Type:application/json\r\n\r\n{}\r\n--b\r\nLocation: https://x/y\r\n\r\n\r\n--b--",
        );
        let parts = parse(&body, "b").expect("well-formed");
        assert_eq!(parts.len(), 2);
        assert_eq!(parts[1].header("location").as_deref(), Some("https://x/y"));
        assert_eq!(boundary("Multipart/Mixed; charset=x; Boundary=\"b\"").as_deref(), Some("b"));
        assert_eq!(boundary("multipart/mixed"), None);
        assert_eq!(boundary("text/plain; boundary=b"), None);
    }

    #[test]
    fn broken_bodies_are_refused() {
        for body in [
            "",
            "--b",
            "--b\r\n",
            "--b\r\nA\r\n\r\n\r\n--b--",
            "--b\r\n\r\nnever ends",
            "--b\r\nA: b\r\n--b--",
        ] {
            assert_eq!(parse(&Bytes::from(body), "b"), None, "{body}");
        }
        let many = "--b\r\n\r\n\r\n".repeat(PARTS_MAX + 1) + "--b--";
        assert_eq!(parse(&Bytes::from(many), "b"), None);
    }
}
