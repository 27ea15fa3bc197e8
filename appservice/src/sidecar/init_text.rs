//! What the operator of the upstream is told to do: the rules for the reverse proxy that is
//! before it, and the steps.
//!
//! Pure: texts out of a [`Setup`]. The upstream's own files are never touched; he does it.

use std::net::SocketAddr;

use causeway_service::server_keys::SigningLine;
use ruma::OwnedServerName;
use url::Url;

/// Requests that write items, which an ordinary client makes (§7.1 of the protocol).
const ITEMS: &str = r"^/_matrix/client/(r0|v3|api/v1)/rooms/[^/]+/state/org\.causeway\.item(/|$)";
/// The sidecar's own endpoints.
const OWN: &str = r"^/_matrix/(client|federation)/unstable/org\.causeway/";
/// Those for clients, and those for servers with the sidecar's key, of one that has its own name.
const CLIENTS: &str = r"^/_matrix/client/unstable/org\.causeway/";
const SERVERS: &str = r"^/_matrix/(key/v2/server|federation/unstable/org\.causeway/)";
/// For how long others may rely on the claim, in seconds.
const CLAIM_SECONDS: u32 = 600;
/// What nginx does for requests that may be large or slow.
const NGINX_LARGE: &str =
    "    proxy_buffering off;\n    proxy_read_timeout 90s;\n    client_max_body_size 12m;\n";

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The upstream's name.
    pub server_name: OwnedServerName,
    /// Where the upstream listens behind its proxy.
    pub homeserver: Url,
    /// Where the sidecar listens.
    pub listen: SocketAddr,
    /// The registration file.
    pub registration: String,
    /// The sidecar's configuration.
    pub config: String,
    /// The sidecar's name, if it does not sign with a key of the homeserver's.
    pub own: Option<OwnName>,
}

/// A name that a sidecar has for itself.
#[derive(Clone, Debug)]
pub struct OwnName {
    /// The name.
    pub name: OwnedServerName,
    /// Where the homeserver's name says that it speaks for it (protocol, §5.5).
    pub claim_path: &'static str,
}

impl OwnName {
    /// What the homeserver's name publishes.
    fn claim(&self) -> String {
        format!("{{\"speaker\":\"{}\"}}", self.name)
    }

    /// Where other servers find the sidecar, if its name does not say it.
    fn delegation(&self) -> Option<String> {
        self.name.port().is_none().then(|| format!("{{\"m.server\":\"{}:443\"}}", self.name.host()))
    }
}

impl Setup {
    /// The rules for nginx. Nothing else takes what is for the sidecar while that is down: a write
    /// that is repeated elsewhere could come after a later one.
    pub fn nginx(&self) -> String {
        let items = self.nginx_location(ITEMS, "");
        let (blocks, endpoints) = match &self.own {
            None => ("server blocks of clients (443) and of servers (8448)", OWN),
            Some(_) => ("server block of clients (443)", CLIENTS),
        };
        let endpoints = self.nginx_location(endpoints, NGINX_LARGE);
        format!(
            "# In the {blocks}, before every other location\n\
             # with a pattern: the first that matches counts.\n\
             {items}{endpoints}{}",
            self.own.as_ref().map(|own| self.nginx_of(own)).unwrap_or_default()
        )
    }

    fn nginx_location(&self, pattern: &str, more: &str) -> String {
        let listen = self.listen;
        format!(
            "location ~ {pattern} {{\n    \
                 # Nothing may follow the port, not even a slash: the URI must stay as it came.\n    \
                 proxy_pass http://{listen};\n    \
                 proxy_http_version 1.1;\n    \
                 proxy_set_header Connection \"\";\n    \
                 proxy_set_header Host $host;\n    \
                 proxy_set_header X-Forwarded-For $remote_addr;\n    \
                 proxy_next_upstream off;\n\
             {more}}}\n"
        )
    }

    /// The claim, and the block of the sidecar's own name.
    fn nginx_of(&self, own: &OwnName) -> String {
        let page = |path: &str, text: &str, more: &str| {
            format!(
                "location = {path} {{\n    default_type application/json;\n{more}    return 200 '{text}';\n}}\n"
            )
        };
        let cache = format!("    add_header Cache-Control max-age={CLAIM_SECONDS};\n");
        let claim = page(own.claim_path, &own.claim(), &cache);
        let delegation = own.delegation().map(|text| page("/.well-known/matrix/server", &text, ""));
        let inside = delegation.unwrap_or_default() + &self.nginx_location(SERVERS, NGINX_LARGE);
        let inside = indented(&inside, "    ");
        format!(
            "# In the server block of https://{server_name}, the name itself:\n\
             {claim}\
             # A server block of its own, with a certificate of {host}:\n\
             server {{\n    listen {port} ssl;\n    server_name {host};\n{inside}}}\n",
            server_name = self.server_name,
            host = own.name.host(),
            port = own.name.port().unwrap_or(443),
        )
    }

    /// The rules for Caddy.
    pub fn caddy(&self) -> String {
        let items = self.caddy_handle("causeway_items", ITEMS);
        let (sites, endpoints) = match &self.own {
            None => ("sites of clients (443) and of servers (8448)", OWN),
            Some(_) => ("site of clients (443)", CLIENTS),
        };
        let endpoints = self.caddy_handle("causeway", endpoints);
        format!(
            "# In the {sites}, before what leads /_matrix to the\n\
             # homeserver. Is that a `handle` with a path, Caddy would try it first: give it a named\n\
             # matcher (`@matrix path /_matrix/*`, `handle @matrix`).\n\
             {items}{endpoints}{}",
            self.own.as_ref().map(|own| self.caddy_of(own)).unwrap_or_default()
        )
    }

    fn caddy_handle(&self, name: &str, pattern: &str) -> String {
        let listen = self.listen;
        format!("@{name} path_regexp {pattern}\nhandle @{name} {{\n\treverse_proxy {listen}\n}}\n")
    }

    fn caddy_of(&self, own: &OwnName) -> String {
        let page = |path: &str, text: &str, more: &str| {
            format!(
                "handle {path} {{\n\theader Content-Type application/json\n{more}\trespond `{text}`\n}}\n"
            )
        };
        let cache = format!("\theader Cache-Control max-age={CLAIM_SECONDS}\n");
        let claim = page(own.claim_path, &own.claim(), &cache);
        let delegation = own.delegation().map(|text| page("/.well-known/matrix/server", &text, ""));
        let inside = delegation.unwrap_or_default() + &self.caddy_handle("causeway_servers", SERVERS);
        let inside = indented(&inside, "\t");
        format!(
            "# In the site of https://{server_name}, the name itself:\n\
             {claim}\
             # A site of its own:\n\
             {name} {{\n{inside}}}\n",
            server_name = self.server_name,
            name = own.name,
        )
    }

    /// What to do, step by step. It holds the signing key, which is a secret.
    pub fn steps(&self, key: &SigningLine) -> String {
        match &self.own {
            None => self.steps_with_key(key),
            Some(own) => self.steps_with_name(own),
        }
    }

    fn steps_with_name(&self, own: &OwnName) -> String {
        let Self { server_name, homeserver, registration, config, .. } = self;
        format!(
            "A sidecar for {server_name} ({homeserver}) is prepared, under the name {name}. To attach it:\n\
             \n\
             1. Have the homeserver read {registration}. Synapse, in homeserver.yaml:\n\
             \n\
             app_service_config_files:\n  - {registration}\n\
             \n   \
                The as_token in it can act as every user of the homeserver: keep the file secret.\n\
             \n\
             2. Restart the homeserver.\n\
             \n\
             3. Start the sidecar, and have it started with the machine:\n\
             \n\
             causeway sidecar run -c {config}\n\
             \n\
             4. Have https://{server_name}{path} answer, without a redirect,\n\
             \n\
             {claim}\n\
             \n   \
                by which {server_name} says that {name} speaks for it in shared spaces: whoever holds the\n   \
                sidecar's key can write items as any of its users. Have the page answer 404, and within an\n   \
                hour other servers refuse what the sidecar asks and writes; what they hold stays. If nothing\n   \
                answers there, it takes a day.\n\
             \n\
             5. Lead requests to it. nginx:\n\
             \n\
             {nginx}\n   \
                or Caddy:\n\
             \n\
             {caddy}\n\
             A room gets a shared space by the state event org.causeway.shared_space, or by the first item.\n\
             Who writes items with an ordinary client overwrites what he has not seen, as with all room\n\
             state; what others wrote beside it on other servers is kept, and told.\n\
             \n\
             Keep the sidecar's folder in your backups: other servers believe what its key signed only if\n\
             {name} publishes that key, which it does of former ones, too. A key that was stolen\n\
             is therefore not ended by another key: take another --name, in a new folder.\n",
            name = own.name,
            path = own.claim_path,
            claim = own.claim(),
            nginx = self.nginx(),
            caddy = self.caddy(),
        )
    }

    fn steps_with_key(&self, key: &SigningLine) -> String {
        let Self { server_name, homeserver, registration, config, .. } = self;
        format!(
            "A sidecar for {server_name} ({homeserver}) is prepared. To attach it:\n\
             \n\
             1. Append this line to the homeserver's signing key file (Synapse: `signing_key_path`),\n   \
                after the line that is there, which goes on signing for the homeserver:\n\
             \n\
             {key}\n\
             \n\
             2. Have the homeserver read {registration}. Synapse, in homeserver.yaml:\n\
             \n\
             app_service_config_files:\n  - {registration}\n\
             \n   \
                The as_token in it can act as every user of the homeserver: keep the file secret.\n\
             \n\
             3. Restart the homeserver.\n\
             \n\
             4. Start the sidecar, and have it started with the machine:\n\
             \n\
             causeway sidecar run -c {config}\n\
             \n\
             5. Add two rules to the reverse proxy before the homeserver. nginx:\n\
             \n\
             {nginx}\n   \
                or Caddy:\n\
             \n\
             {caddy}\n\
             A room gets a shared space by the state event org.causeway.shared_space, or by the first item.\n\
             Who writes items with an ordinary client overwrites what he has not seen, as with all room\n\
             state; what others wrote beside it on other servers is kept, and told.\n\
             \n\
             To retire the sidecar's key, move its public half to the homeserver's `old_signing_keys`\n\
             ({key_id}: {public}), so that what it signed can be verified.\n",
            key = key.text(),
            nginx = self.nginx(),
            caddy = self.caddy(),
            key_id = key.key_id(),
            public = key.public(),
        )
    }
}

fn indented(text: &str, by: &str) -> String {
    text.split_inclusive('\n').flat_map(|line| [by, line]).collect()
}

#[cfg(test)]
mod tests {
    use ruma::owned_server_name;

    use super::*;

    fn setup() -> Setup {
        Setup {
            server_name: owned_server_name!("example.org"),
            homeserver: Url::parse("http://127.0.0.1:8008").expect("an address"),
            listen: SocketAddr::from(([127, 0, 0, 1], 8010)),
            registration: "/etc/causeway/registration.yaml".to_owned(),
            config: "/etc/causeway/causeway-sidecar.toml".to_owned(),
            own: None,
        }
    }

    #[test]
    fn with_a_name_of_its_own_the_key_is_no_part_of_the_homeservers() {
        let own = |name| Some(OwnName { name, claim_path: "/.well-known/org.causeway.shared_spaces" });
        let setup = Setup { own: own(owned_server_name!("items.example.org")), ..setup() };
        let key = SigningLine::of([7; 32]);
        let steps = setup.steps(&key);
        assert_eq!(steps, include_str!("../../tests/data/sidecar/steps-own-name.txt"));
        assert!(!steps.contains(&key.text()), "nobody is told the key");
        let setup = Setup { own: own(owned_server_name!("items.example.org:8449")), ..setup };
        let rules = setup.nginx();
        assert!(rules.contains("listen 8449 ssl;") && !rules.contains("m.server"), "{rules}");
    }

    #[test]
    fn the_texts_are_as_they_were() {
        let setup = setup();
        assert_eq!(setup.nginx(), include_str!("../../tests/data/sidecar/nginx.conf"));
        assert_eq!(setup.caddy(), include_str!("../../tests/data/sidecar/Caddyfile"));
        let steps = setup.steps(&SigningLine::of([7; 32]));
        assert_eq!(steps, include_str!("../../tests/data/sidecar/steps.txt"));
    }
}
