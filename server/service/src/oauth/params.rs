//! Parameters of OAuth requests: pairs of a query or of a form.
//!
//! Invariants: bounded in bytes and number; a parameter that is there twice is refused,
//! one without a value counts as absent (RFC 6749, section 3.1).

use url::form_urlencoded;

use super::OAuthError;

/// Bytes of a query or form.
const BYTES_MAX: usize = 16_384;
/// Parameters at once.
const PARAMS_MAX: usize = 64;

/// See the module.
#[derive(Debug)]
pub struct Params(Vec<(String, String)>);

impl Params {
    /// Reads a query or a form.
    ///
    /// # Errors
    /// `invalid_request`.
    pub fn parse(text: &[u8]) -> Result<Self, OAuthError> {
        let invalid = |why: &str| Err(OAuthError::invalid_request(why));
        if text.len() > BYTES_MAX {
            return invalid("There are too many parameters");
        }
        let mut params: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(text) {
            if params.iter().any(|(known, _)| *known == name) {
                return invalid("A parameter is there twice");
            }
            if params.len() >= PARAMS_MAX {
                return invalid("There are too many parameters");
            }
            params.push((name.into_owned(), value.into_owned()));
        }
        params.retain(|(_, value)| !value.is_empty());
        Ok(Self(params))
    }

    /// A parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// One that must be there.
    ///
    /// # Errors
    /// `invalid_request`.
    pub fn need(&self, name: &str) -> Result<&str, OAuthError> {
        self.get(name).ok_or_else(|| OAuthError::invalid_request(format!("{name} is missing")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_parameter_is_there_once_or_not_at_all() {
        let params = Params::parse(b"a=1+2%26&b=&c").expect("fine");
        assert_eq!((params.get("a"), params.get("b"), params.get("c")), (Some("1 2&"), None, None));
        assert_eq!(params.need("b").expect_err("missing").code, "invalid_request");
        assert!(Params::parse(b"a=1&a=1").is_err() && Params::parse(b"a=1&a=").is_err());
        let many: Vec<String> = (0..=PARAMS_MAX).map(|number| format!("{number}=x")).collect();
        assert!(Params::parse(many.join("&").as_bytes()).is_err());
        assert!(Params::parse(&vec![b'a'; BYTES_MAX + 1]).is_err());
    }
}
