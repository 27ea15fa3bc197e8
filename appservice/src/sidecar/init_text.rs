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
}

impl Setup {
    /// The rules for nginx. Nothing else takes what is for the sidecar while that is down: a write
    /// that is repeated elsewhere could come after a later one.
    pub fn nginx(&self) -> String {
        let listen = self.listen;
        let location = |pattern: &str, more: &str| {
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
        };
        let items = location(ITEMS, "");
        let own = location(
            OWN,
            "    proxy_buffering off;\n    proxy_read_timeout 90s;\n    client_max_body_size 12m;\n",
        );
        format!(
            "# In the server blocks of clients (443) and of servers (8448), before every other location\n\
             # with a pattern: the first that matches counts.\n\
             {items}{own}"
        )
    }

    /// The rules for Caddy.
    pub fn caddy(&self) -> String {
        let listen = self.listen;
        let handle = |name: &str, pattern: &str| {
            format!("@{name} path_regexp {pattern}\nhandle @{name} {{\n\treverse_proxy {listen}\n}}\n")
        };
        let (items, own) = (handle("causeway_items", ITEMS), handle("causeway", OWN));
        format!(
            "# In the sites of clients (443) and of servers (8448), before what leads /_matrix to the\n\
             # homeserver. Is that a `handle` with a path, Caddy would try it first: give it a named\n\
             # matcher (`@matrix path /_matrix/*`, `handle @matrix`).\n\
             {items}{own}"
        )
    }

    /// What to do, step by step. It holds the signing key, which is a secret.
    pub fn steps(&self, key: &SigningLine) -> String {
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
        }
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
