//! `causeway sidecar init`: asks the homeserver who it is, writes the sidecar's files, and
//! prints what the operator is to do.
//!
//! Invariants: nothing of the homeserver's is touched; a file that is there stays as it is, so
//! that a second run prints the same.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use causeway_appservice::sidecar::{
    client::UpstreamClient,
    init_text::{OwnName, Setup},
    registration::{self, Tokens},
};
use causeway_federation::claims::CLAIM_PATH;
use causeway_service::{error::Chain, server_keys::SigningLine};
use clap::Args;
use ruma::OwnedServerName;
use rustls::RootCertStore;
use serde::Deserialize;
use url::Url;

use crate::{
    config::is_base,
    exit::{Failure, Reason},
    files, secret, tls,
};

/// The sidecar's configuration.
pub const CONFIG_FILE: &str = "causeway-sidecar.toml";
const REGISTRATION_FILE: &str = "registration.yaml";
const KEY_FILE: &str = "signing.key";
/// Characters of a token.
const TOKEN_LENGTH: usize = 64;

/// What `init` is told.
#[derive(Debug, Args)]
pub struct Init {
    /// Where the homeserver answers clients, behind its reverse proxy (`http://127.0.0.1:8008`).
    #[arg(long)]
    homeserver: Url,
    /// Where the sidecar is to listen.
    #[arg(long, default_value = "127.0.0.1:8010")]
    listen: SocketAddr,
    /// Where the sidecar's files are to be.
    #[arg(long, default_value = ".")]
    folder: PathBuf,
    /// The homeserver's name, where its address does not serve the federation API, which says it.
    #[arg(long)]
    server_name: Option<OwnedServerName>,
    /// A server name of the sidecar's own (`items.example.org`), under which it publishes its key: for
    /// a homeserver whose key file it is to have no part in.
    #[arg(long)]
    name: Option<OwnedServerName>,
    /// Certificate authorities to trust beside the system's (PEM files).
    #[arg(long)]
    ca_file: Vec<PathBuf>,
}

/// Prepares a sidecar.
pub fn init(wanted: &Init) -> Result<(), Failure> {
    let wrong = |why: &str| Failure::new(Reason::Configuration, why.to_owned());
    if !is_base(&wanted.homeserver) {
        return Err(wrong("--homeserver: an address like http://127.0.0.1:8008"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(Reason::Internal, error))?;
    let server_name = runtime.block_on(name_of(wanted))?;
    if wanted.name.as_ref() == Some(&server_name) {
        return Err(wrong("--name: the homeserver's name; it is to be one of the sidecar's own"));
    }
    let failed = |error: io::Error| Failure::new(Reason::DataFolder, error);
    fs::create_dir_all(&wanted.folder).map_err(failed)?;
    let folder = fs::canonicalize(&wanted.folder).map_err(failed)?;
    let in_file = |name: &str, error: &dyn std::fmt::Display| {
        Failure::new(Reason::DataFolder, format!("{}: {error}", folder.join(name).display()))
    };
    let url = reached_at(wanted.listen).ok_or_else(|| wrong("--listen: not an address"))?;
    make(&folder.join(REGISTRATION_FILE), || registration::text(&server_name, &url, &tokens()))
        .and_then(|text| registration::read(&text).map_err(io::Error::other))
        .map_err(|error| in_file(REGISTRATION_FILE, &error))?;
    let key = make(&folder.join(KEY_FILE), || format!("{}\n", SigningLine::make().text()))
        .and_then(|text| SigningLine::read(&text).map_err(io::Error::other))
        .map_err(|error| in_file(KEY_FILE, &error))?;
    make(&folder.join(CONFIG_FILE), || config(wanted, &server_name))
        .and_then(|text| same_name(&text, wanted))
        .map_err(|error| in_file(CONFIG_FILE, &error))?;
    let told = |name: &str| folder.join(name).display().to_string();
    let setup = Setup {
        server_name,
        homeserver: wanted.homeserver.clone(),
        listen: wanted.listen,
        registration: told(REGISTRATION_FILE),
        config: told(CONFIG_FILE),
        own: wanted.name.clone().map(|name| OwnName { name, claim_path: CLAIM_PATH }),
    };
    println!("{}", setup.steps(&key));
    Ok(())
}

/// The homeserver's name: it answers, and says it in what it publishes of its keys.
async fn name_of(wanted: &Init) -> Result<OwnedServerName, Failure> {
    #[derive(Deserialize)]
    struct Keys {
        server_name: OwnedServerName,
    }
    let unwell = |what: &str, error: &(dyn std::error::Error + 'static)| {
        Failure::new(Reason::Unwell, format!("{what}: {}", Chain(error)))
    };
    let mut roots = RootCertStore::empty();
    let authorities =
        tls::authorities(&wanted.ca_file).map_err(|error| Failure::new(Reason::Configuration, error))?;
    roots.add_parsable_certificates(authorities);
    let client = UpstreamClient::new(&wanted.homeserver, "none", &Arc::new(roots))
        .map_err(|error| unwell("the homeserver can't be asked", &error))?;
    client.versions().await.map_err(|error| unwell("the homeserver does not answer", &error))?;
    let said = match client.key_document().await {
        Ok(document) => serde_json::from_str::<Keys>(document.get()).ok().map(|keys| keys.server_name),
        Err(_) => None,
    };
    match (said, &wanted.server_name) {
        (Some(said), Some(told)) if said != *told => Err(Failure::new(
            Reason::Configuration,
            format!("the homeserver says that it is {said}, not {told}"),
        )),
        (Some(name), _) => Ok(name),
        (None, Some(told)) => Ok(told.clone()),
        (None, None) => {
            let why = "the homeserver does not say its name at that address: give it by --server-name";
            Err(Failure::new(Reason::Configuration, why.to_owned()))
        }
    }
}

/// Where the homeserver reaches the sidecar.
fn reached_at(listen: SocketAddr) -> Option<Url> {
    let mut reached = listen;
    if listen.ip().is_unspecified() {
        reached.set_ip(match listen {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    Url::parse(&format!("http://{reached}")).ok()
}

fn tokens() -> Tokens {
    Tokens { service: secret::of_length(TOKEN_LENGTH), server: secret::of_length(TOKEN_LENGTH) }
}

/// The text of a file, which is written first if it is not there.
fn make(path: &Path, text: impl FnOnce() -> String) -> io::Result<String> {
    if let Some(text) = files::read_if_there(path)? {
        return Ok(text);
    }
    let text = text();
    files::write_secret(path, &text)?;
    Ok(text)
}

fn config(wanted: &Init, server_name: &OwnedServerName) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let authorities: Vec<String> =
        wanted.ca_file.iter().map(|file| quoted(&absolute(file).display().to_string())).collect();
    let own_name = wanted.name.as_ref().map(|name| format!("name = {}\n", quoted(name.as_str())));
    format!(
        "# A sidecar of {server_name}. `causeway generate-config` prints what else can be set.\n\
         server_name = {name}\n\
         data_folder = \"data\"\n\
         \n\
         [[listeners]]\n\
         address = {listen}\n\
         \n\
         [sidecar]\n\
         homeserver = {homeserver}\n\
         registration = \"{REGISTRATION_FILE}\"\n\
         signing_key = \"{KEY_FILE}\"\n\
         {own_name}\
         \n\
         [federation]\n\
         extra_ca_files = [{authorities}]\n",
        name = quoted(server_name.as_str()),
        own_name = own_name.unwrap_or_default(),
        listen = quoted(&wanted.listen.to_string()),
        homeserver = quoted(wanted.homeserver.as_str().trim_end_matches('/')),
        authorities = authorities.join(", "),
    )
}

/// Refuses to tell the steps for another name than the configuration that is there already has.
fn same_name(text: &str, wanted: &Init) -> io::Result<()> {
    let table: toml::Table = text.parse().map_err(io::Error::other)?;
    let name = table.get("sidecar").and_then(|sidecar| sidecar.get("name")).and_then(toml::Value::as_str);
    if name == wanted.name.as_ref().map(|name| name.as_str()) {
        return Ok(());
    }
    let name = name.unwrap_or("none");
    Err(io::Error::other(format!(
        "the sidecar's own name is {name} there: begin in another folder, or change it there"
    )))
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use ruma::owned_server_name;

    use super::*;
    use crate::config::Config;

    fn wanted() -> Init {
        Init {
            homeserver: Url::parse("http://127.0.0.1:8008").expect("an address"),
            listen: SocketAddr::from(([127, 0, 0, 1], 8010)),
            folder: PathBuf::from("."),
            server_name: None,
            name: None,
            ca_file: vec![PathBuf::from("/etc/some \"authority\".pem")],
        }
    }

    fn config_of(wanted: &Init) -> Config {
        let text = config(wanted, &owned_server_name!("example.org:8448"));
        Config::parse(&text, Path::new(CONFIG_FILE), []).expect("usable")
    }

    #[test]
    fn the_steps_are_those_of_the_configuration_that_is_there() {
        let without = wanted();
        let with = Init { name: Some(owned_server_name!("items.example.org")), ..wanted() };
        let text = |wanted: &Init| config(wanted, &owned_server_name!("example.org:8448"));
        assert!(same_name(&text(&without), &without).is_ok() && same_name(&text(&with), &with).is_ok());
        assert!(same_name(&text(&without), &with).is_err() && same_name(&text(&with), &without).is_err());
    }

    #[test]
    fn the_configuration_is_one() {
        let config = config_of(&wanted());
        assert_eq!(config.server_name, "example.org:8448");
        assert_eq!(
            config.sidecar.homeserver().map(|url| url.to_string()).as_deref(),
            Some("http://127.0.0.1:8008/")
        );
        assert_eq!(config.listeners[0].address, wanted().listen);
        assert_eq!(config.federation.extra_ca_files, wanted().ca_file);
        assert_eq!(config.sidecar.name, None);
        let own = owned_server_name!("items.example.org");
        let text = config_of(&Init { name: Some(own.clone()), ..wanted() });
        assert_eq!(text.sidecar.name, Some(own));
    }

    #[test]
    fn what_is_there_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(KEY_FILE);
        assert_eq!(make(&path, || "first".to_owned()).expect("made"), "first");
        assert_eq!(make(&path, || "second".to_owned()).expect("there"), "first");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
