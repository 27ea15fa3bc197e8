//! `multipart/mixed` as files travel in it: few parts, read as they come and
//! written as they go.
//!
//! Not a general parser: no nesting, no folded headers, bounded parts and
//! headers. Invariant: of a part's content no more is held than what could be the
//! beginning of its end.

use bytes::{Buf, Bytes, BytesMut};

/// Parts that are looked at.
const PARTS_MAX: usize = 8;
/// Headers of one part that are looked at, and their length in bytes.
const HEADERS_MAX: usize = 32;
const HEADERS_BYTES_MAX: usize = 16 * 1024;
/// Longest boundary (RFC 2046), in bytes.
const BOUNDARY_BYTES_MAX: usize = 70;

/// The headers of a part, names in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The value of a header, by lower-case name.
    pub fn value(&self, name: &str) -> Option<String> {
        self.0.iter().find(|(held, _)| held == name).map(|(_, value)| value.clone())
    }
}

/// What comes next in a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A part begins.
    Part(Headers),
    /// Some of its content.
    Content(Bytes),
    /// It is complete.
    PartEnd,
    /// There are no more.
    End,
}

/// The body is not well-formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// Reads a body in pieces.
#[derive(Debug)]
pub struct Reader {
    /// What comes before a part, and after it.
    delimiter: Vec<u8>,
    buffer: BytesMut,
    at: At,
    parts: usize,
}

#[derive(Clone, Copy, Debug)]
enum At {
    /// What is before the first delimiter is for people.
    Preamble,
    /// Right after a delimiter.
    Delimiter,
    Headers,
    /// At the empty line's end, which may belong to the delimiter.
    ContentBegin,
    Content,
    End,
}

impl Reader {
    /// For parts divided by `boundary`.
    pub fn new(boundary: &str) -> Self {
        // The first delimiter may begin the body; the others begin a line.
        let buffer = BytesMut::from(&b"\r\n"[..]);
        Self { delimiter: format!("\r\n--{boundary}").into_bytes(), buffer, at: At::Preamble, parts: 0 }
    }

    /// Takes the next piece of the body.
    pub fn feed(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// What comes next; `None` if that takes another piece.
    pub fn read(&mut self) -> Result<Option<Found>, Broken> {
        loop {
            let found = match self.at {
                At::Preamble => {
                    let Some(at) = find(&self.buffer, &self.delimiter) else {
                        self.buffer.advance(self.settled());
                        return Ok(None);
                    };
                    self.buffer.advance(at);
                    self.pass_delimiter()
                }
                At::Delimiter => return self.after_delimiter(),
                At::Headers => return self.headers(),
                At::ContentBegin => {
                    if self.buffer.len() < self.delimiter.len() && self.delimiter.starts_with(&self.buffer) {
                        return Ok(None);
                    }
                    if self.buffer.starts_with(&self.delimiter) {
                        self.pass_delimiter();
                        Some(Found::PartEnd)
                    } else {
                        self.buffer.advance(2);
                        self.at = At::Content;
                        None
                    }
                }
                At::Content => return Ok(self.content()),
                At::End => return Ok(Some(Found::End)),
            };
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    fn pass_delimiter(&mut self) -> Option<Found> {
        self.buffer.advance(self.delimiter.len());
        self.at = At::Delimiter;
        None
    }

    fn after_delimiter(&mut self) -> Result<Option<Found>, Broken> {
        if self.buffer.starts_with(b"--") {
            self.at = At::End;
            return Ok(Some(Found::End));
        }
        if self.buffer.len() < 2 {
            return Ok(None);
        }
        let Some(end) = find(&self.buffer, b"\r\n") else {
            return if self.buffer.len() > HEADERS_BYTES_MAX { Err(Broken) } else { Ok(None) };
        };
        self.parts += 1;
        if self.parts > PARTS_MAX {
            return Err(Broken);
        }
        // The line's end stays, so that a part without headers has an empty line.
        self.buffer.advance(end);
        self.at = At::Headers;
        self.headers()
    }

    fn headers(&mut self) -> Result<Option<Found>, Broken> {
        let Some(end) = find(&self.buffer, b"\r\n\r\n") else {
            return if self.buffer.len() > HEADERS_BYTES_MAX { Err(Broken) } else { Ok(None) };
        };
        let text = std::str::from_utf8(&self.buffer[..end]).map_err(|_| Broken)?;
        let mut headers = Vec::new();
        for line in text.split("\r\n").filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').ok_or(Broken)?;
            if headers.len() >= HEADERS_MAX {
                return Err(Broken);
            }
            headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
        self.buffer.advance(end + 2);
        self.at = At::ContentBegin;
        Ok(Some(Found::Part(Headers(headers))))
    }

    fn content(&mut self) -> Option<Found> {
        let end = find(&self.buffer, &self.delimiter);
        if end == Some(0) {
            self.pass_delimiter();
            return Some(Found::PartEnd);
        }
        let ready = end.unwrap_or_else(|| self.settled());
        (ready > 0).then(|| Found::Content(self.buffer.split_to(ready).freeze()))
    }

    /// How much of the buffer can't be the beginning of a delimiter.
    fn settled(&self) -> usize {
        self.buffer.len().saturating_sub(self.delimiter.len() - 1)
    }
}

fn find(body: &[u8], what: &[u8]) -> Option<usize> {
    let first = *what.first()?;
    let mut at = 0;
    while let Some(step) = body.get(at..)?.iter().position(|&byte| byte == first) {
        at += step;
        if body[at..].starts_with(what) {
            return Some(at);
        }
        at += 1;
    }
    None
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

/// What comes before a part's content. `boundary` must not occur in that.
pub fn begin_part(boundary: &str, headers: &[(&str, &str)]) -> String {
    let mut head = format!("\r\n--{boundary}\r\n");
    for (name, value) in headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    head.push_str("\r\n");
    head
}

/// What comes after the last part's content.
pub fn end(boundary: &str) -> String {
    format!("\r\n--{boundary}--\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of a body that comes in pieces of some size; the same whatever size.
    fn parse(body: &[u8], boundary: &str) -> Option<Vec<(Headers, Vec<u8>)>> {
        let in_pieces = |size: usize| {
            let mut reader = Reader::new(boundary);
            let mut parts = Vec::new();
            for piece in body.chunks(size) {
                reader.feed(piece);
                while let Some(found) = reader.read().ok()? {
                    match found {
                        Found::Part(headers) => parts.push((headers, Vec::new())),
                        Found::Content(content) => parts.last_mut()?.1.extend_from_slice(&content),
                        Found::PartEnd => {}
                        Found::End => return Some(parts),
                    }
                    assert!(reader.buffer.len() <= body.len().max(2));
                }
            }
            None
        };
        let whole = in_pieces(body.len().max(1));
        for size in [1, 2, 3, 7] {
            assert_eq!(in_pieces(size), whole, "pieces of {size}");
        }
        whole
    }

    #[test]
    fn what_is_written_is_read() {
        let contents: [&[u8]; 3] = [b"{}", b"\r\n--no\r\n\r\n\0\r\n--xy", b""];
        let headers: [&[(&str, &str)]; 3] =
            [&[("Content-Type", "application/json")], &[("Content-Type", "image/png"), ("X", "a:b")], &[]];
        let mut body = Vec::new();
        for (content, headers) in contents.iter().zip(headers) {
            body.extend_from_slice(begin_part("xyz", headers).as_bytes());
            body.extend_from_slice(content);
        }
        body.extend_from_slice(end("xyz").as_bytes());
        let parts = parse(&body, "xyz").expect("well-formed");
        assert_eq!(parts.iter().map(|(_, content)| content.as_slice()).collect::<Vec<_>>(), contents);
        assert_eq!(parts[1].0.value("x").as_deref(), Some("a:b"));
        assert_eq!(parts[2].0, Headers::default());
    }

    #[test]
    fn other_servers_forms_are_read() {
        let body =
            b"preamble\r\n--b\r\nContent-Type:application/json\r\n\r\n{}\r\n--b\r\nLocation: https://x/y\r\n\r\n--b--";
        let parts = parse(body, "b").expect("well-formed");
        assert_eq!(parts.len(), 2);
        assert_eq!(parts[1].0.value("location").as_deref(), Some("https://x/y"));
        let body = b"--b\r\n\r\nx\r\n--b \r\nA: b\r\n\r\n\r\n--b--";
        let parts = parse(body, "b").expect("well-formed");
        assert_eq!((parts[0].1.as_slice(), parts[1].1.as_slice()), (&b"x"[..], &b""[..]));
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
            assert_eq!(parse(body.as_bytes(), "b"), None, "{body}");
        }
        let many = "--b\r\n\r\n\r\n".repeat(PARTS_MAX + 1) + "--b--";
        assert_eq!(parse(many.as_bytes(), "b"), None);
        let mut long = Reader::new("b");
        long.feed(format!("--b\r\nA: {}", "x".repeat(HEADERS_BYTES_MAX)).as_bytes());
        assert_eq!(long.read(), Err(Broken));
    }

    #[test]
    fn of_a_long_content_little_is_held() {
        let mut reader = Reader::new("b");
        reader.feed(b"--b\r\n\r\n");
        assert!(matches!(reader.read(), Ok(Some(Found::Part(_)))));
        for _ in 0..100 {
            reader.feed(&[b'\r'; 1_000]);
            while reader.read().expect("well-formed").is_some() {}
            assert!(reader.buffer.len() < 10);
        }
    }
}
