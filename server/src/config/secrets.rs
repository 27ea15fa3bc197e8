//! Secrets that stand in files of their own, so that the configuration may be read by
//! others and kept with what is not secret.
//!
//! A key that ends in `_file` names the file; the key without it is then not to be set.

use std::{fs::File, io::Read as _, path::Path};

use super::{Config, ConfigError};

/// A secret, in bytes.
const SECRET_BYTES_MAX: u64 = 64 << 10;

impl Config {
    /// Puts what the files hold in the place of the secrets.
    pub(super) fn read_secrets(&mut self) -> Result<(), ConfigError> {
        let registration = &mut self.registration;
        fill(
            "registration.shared_secret_file",
            registration.shared_secret_file.as_deref(),
            &mut registration.shared_secret,
        )?;
        let mut tokens = registration.tokens.join("\n");
        fill("registration.tokens_file", registration.tokens_file.as_deref(), &mut tokens)?;
        registration.tokens = tokens.lines().map(|line| line.trim().to_owned()).collect();
        registration.tokens.retain(|token| !token.is_empty());
        fill("turn.secret_file", self.turn.secret_file.as_deref(), &mut self.turn.secret)
    }
}

/// The content of a file, without the white space at its end.
fn fill(key: &'static str, path: Option<&Path>, secret: &mut String) -> Result<(), ConfigError> {
    let Some(path) = path else { return Ok(()) };
    let invalid = |why: String| ConfigError::invalid(key, format!("{}: {why}", path.display()));
    if !secret.is_empty() {
        let own = key.strip_suffix("_file").unwrap_or(key);
        return Err(ConfigError::invalid(key, format!("{own} is set as well")));
    }
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text));
    read.map_err(|error| invalid(error.to_string()))?;
    if text.len() as u64 > SECRET_BYTES_MAX {
        return Err(invalid(format!("it has more than {SECRET_BYTES_MAX} bytes")));
    }
    match text.trim_end() {
        "" => Err(invalid("it is empty".to_owned())),
        filled => {
            filled.clone_into(secret);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const MINIMAL: &str = "server_name = \"a.example\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n";

    #[test]
    fn secrets_come_from_files_beside_the_configuration() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let config = folder.path().join("causeway.toml");
        let load = |text: &str| {
            fs::write(&config, format!("{MINIMAL}{text}")).expect("written");
            Config::load(&config)
        };
        for (name, content) in
            [("shared", "open sesame\n"), ("tokens", "one\n\n two\n"), ("turn", "turning"), ("empty", "\n")]
        {
            fs::write(folder.path().join(name), content).expect("written");
        }
        let loaded = load(
            "[registration]\nshared_secret_file = \"shared\"\ntokens_file = \"tokens\"\n[turn]\nsecret_file = \"turn\"\n",
        );
        let loaded = loaded.expect("usable");
        assert_eq!(loaded.registration.shared_secret, "open sesame");
        assert_eq!(loaded.registration.tokens, ["one", "two"]);
        assert_eq!(loaded.turn.secret, "turning");
        for (text, wanted) in [
            ("[registration]\nshared_secret_file = \"missing\"\n", "missing"),
            ("[registration]\nshared_secret_file = \"empty\"\n", "it is empty"),
            (
                "[turn]\nsecret = \"x\"\nsecret_file = \"turn\"\n",
                "turn.secret_file: turn.secret is set as well",
            ),
        ] {
            let line = load(text).expect_err(text).to_string();
            assert!(line.contains(wanted) && !line.contains('\n'), "{line}");
            assert!(!line.contains("sesame") && !line.contains("turning"), "{line}");
        }
    }
}
