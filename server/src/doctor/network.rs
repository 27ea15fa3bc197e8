//! What others see: names, well-known files, federation to other servers, their clocks.
//!
//! It asks as a server of a name that nobody has, with a key made up for the purpose:
//! what is asked here needs no signature, and nothing of the own server is used up.

use std::{str, sync::Arc, time::Duration};

use causeway_federation::{
    ClientError, FederationClient,
    client::{Request, Response, escape},
    discovery::Route,
};
use causeway_service::{clock::Clock, error::Chain, server_keys::ServerKeys};
use causeway_storage::{Database, Options};
use reqwest::{Method, header};
use ruma::{OwnedServerName, ServerName, server_name};
use serde_json::Value;

use super::Findings;
use crate::{config::Config, settings};

/// How long anybody may take to answer.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Everything that is asked for is short.
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// Clocks that differ by more confuse users; by much more, keys and events are taken for wrong.
const CLOCK_DOUBTFUL_MS: u64 = 5_000;
const CLOCK_BAD_MS: u64 = 60_000;

pub(super) async fn look(
    config: &Config,
    servers: &[OwnedServerName],
    clock: &Clock,
    findings: &mut Findings,
) {
    if !config.federation.enabled {
        return findings.doubtful(
            "federation is switched off: other servers were not tried",
            "set federation.enabled, if this server is to talk to others",
        );
    }
    let Ok(folder) = tempfile::tempdir() else {
        return findings.bad("there is no room for a temporary folder", "set TMPDIR to one that exists");
    };
    let client = match client(config, folder.path(), clock) {
        Ok(client) => client,
        Err(why) => return findings.bad(why, "see federation.extra_ca_files"),
    };
    let me = Asker { config, client, clock };
    me.own(findings).await;
    me.for_clients(findings).await;
    for server in servers {
        me.other(server, findings).await;
    }
    if servers.is_empty() {
        findings.doubtful(
            "no other server was tried, and the clock was compared with none",
            "name one: causeway doctor matrix.org",
        );
    }
}

fn client(config: &Config, folder: &std::path::Path, clock: &Clock) -> Result<FederationClient, String> {
    let told = |error: &(dyn std::error::Error + 'static)| Chain(error).to_string();
    let settings = settings::of_federation(config).map_err(|error| told(&error))?;
    let database = Database::open(folder, &Options::default()).map_err(|error| told(&error))?;
    let name = server_name!("doctor.invalid").to_owned();
    let keys = ServerKeys::open(database, name, clock).map_err(|error| told(&error))?;
    FederationClient::new(&settings, Arc::new(keys), clock.clone()).map_err(|error| told(&error))
}

struct Asker<'a> {
    config: &'a Config,
    client: FederationClient,
    clock: &'a Clock,
}

impl Asker<'_> {
    /// Whether others find this server by its name, and find this one.
    async fn own(&self, findings: &mut Findings) {
        let own = &self.config.server_name;
        let Some(answer) = self.reached(own, "/_matrix/key/v2/server", findings).await else { return };
        let told: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let now_ms = self.clock.now_ms();
        if told["server_name"] != own.as_str() {
            findings.bad(
                format!("what answers there is not {own}, but {}", told["server_name"]),
                "lead its name, its well-known file and its proxy to this server",
            );
        } else if told["valid_until_ts"].as_u64().is_none_or(|until| until < now_ms) {
            findings.bad(format!("the keys of {own} have expired"), "set the clocks of both machines");
        } else {
            findings.good(format!("other servers find {own}, and get its keys"));
        }
    }

    /// Whether clients find this server by its name.
    async fn for_clients(&self, findings: &mut Findings) {
        let own = &self.config.server_name;
        let url = format!("https://{}/.well-known/matrix/client", own.host());
        let advice = "serve it at the host of the server's name (well_known.client makes this server do so), or have users type the server's address";
        let base = match self.json(own, &url).await {
            Ok(told) => told["m.homeserver"]["base_url"].as_str().map(str::to_owned),
            Err(why) => return findings.doubtful(format!("{url}: {why}"), advice),
        };
        let Some(base) = base else {
            return findings.bad(format!("{url} names no m.homeserver.base_url"), advice);
        };
        let url = format!("{}/_matrix/client/versions", base.trim_end_matches('/'));
        match self.json(own, &url).await {
            Ok(told) if told["versions"].is_array() => {
                findings.good(format!("clients find {own} at {base}"));
            }
            Ok(_) => {
                findings.bad(format!("{url} is not answered by a homeserver"), "look at the proxy there");
            }
            Err(why) => findings.bad(
                format!("{url}: {why}"),
                "that is where the well-known file sends clients: correct it, or the proxy there",
            ),
        }
    }

    /// Whether another server can be asked, and can ask this one.
    async fn other(&self, server: &ServerName, findings: &mut Findings) {
        if server == self.config.server_name {
            return;
        }
        let path = "/_matrix/federation/v1/version";
        let Some(answer) = self.reached(server, path, findings).await else { return };
        let told: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let text =
            |field: &str| told["server"][field].as_str().unwrap_or("?").chars().take(60).collect::<String>();
        findings.good(format!("{server} answers: {} {}", text("name"), text("version")));
        self.compare_clocks(server, &answer, findings);
        let path = format!("/_matrix/key/v2/query/{}", escape(&self.config.server_name));
        let keys = match self.ask(server, &path).await {
            Ok(answer) => serde_json::from_slice(&answer.body).unwrap_or_else(|_| Value::default()),
            Err(error) => {
                let what = format!("{server} was not asked whether it reaches us: {}", Chain(&error));
                return findings.doubtful(what, "it may not answer for others; name another server");
            }
        };
        if keys["server_keys"].as_array().is_some_and(|keys| !keys.is_empty()) {
            findings.good(format!("{server} has our keys: it reaches us, or did so lately"));
        } else {
            findings.bad(
                format!("{server} can't get our keys"),
                "other servers don't reach this one: open the federation port in firewalls, and see what is told of its own name above",
            );
        }
    }

    fn compare_clocks(&self, server: &ServerName, answer: &Response, findings: &mut Findings) {
        let date = answer.headers.get(header::DATE).and_then(|date| date.to_str().ok());
        let theirs = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
        let Some(theirs) = theirs.and_then(|time| u64::try_from(time.timestamp().as_millisecond()).ok())
        else {
            return findings.doubtful(format!("{server} does not tell the time"), "name another server");
        };
        // Their second may have begun long ago.
        let apart_ms = self.clock.now_ms().abs_diff(theirs);
        let told = format!("the clock is within {} s of that of {server}", apart_ms.div_ceil(1000));
        let advice =
            "run a time service (chrony, systemd-timesyncd) on this machine; if it does, theirs is wrong";
        if apart_ms <= CLOCK_DOUBTFUL_MS {
            findings.good(told);
        } else if apart_ms <= CLOCK_BAD_MS {
            findings.doubtful(told, advice);
        } else {
            findings.bad(format!("the clock is {} s off that of {server}", apart_ms / 1000), advice);
        }
    }

    /// Finds and asks a server, and tells where it is or why it is not to be had.
    async fn reached(&self, server: &ServerName, path: &str, findings: &mut Findings) -> Option<Response> {
        let place = match self.client.place(server).await {
            Ok(place) => place,
            Err(error) => {
                findings.bad(Chain(&error).to_string(), "federation.ip_deny_list forbids the address");
                return None;
            }
        };
        let via = match &place.route {
            Route::Host => String::new(),
            Route::Service(target) => format!(" (by a service record, on {target})"),
            Route::Address(address) => format!(" (by the configuration, on {address})"),
        };
        findings.good(format!("{server} is looked for at {}:{}{via}", place.host, place.port));
        match self.ask(server, path).await {
            Ok(answer) => Some(answer),
            Err(error) => {
                let why = Chain(&error).to_string();
                let advice = advice_on(&error, &why, &place.host, place.port);
                findings.bad(why, advice);
                None
            }
        }
    }

    async fn ask(&self, server: &ServerName, path: &str) -> Result<Response, ClientError> {
        let mut request = Request::new(server, Method::GET, path);
        request.timeout = Some(TIMEOUT);
        request.response_bytes_max = ANSWER_BYTES_MAX;
        self.client.send_ok(request).await
    }

    async fn json(&self, server: &ServerName, url: &str) -> Result<Value, String> {
        let told = |error: ClientError| Chain(&error).to_string();
        let mut coming = self.client.stream_unsigned(server, url, ANSWER_BYTES_MAX).await.map_err(told)?;
        let mut body = Vec::new();
        while let Some(piece) = coming.piece().await.map_err(told)? {
            body.extend_from_slice(&piece);
        }
        serde_json::from_slice(&body).map_err(|_| "that is no JSON".to_owned())
    }
}

/// What to do about a server that is not to be had.
fn advice_on(error: &ClientError, why: &str, host: &str, port: u16) -> String {
    let transport = match error {
        ClientError::Transport(_, error) => error,
        ClientError::Status { .. } => {
            return format!(
                "something else than a homeserver answers at {host}:{port}: look at the proxy there"
            );
        }
        _ => return "look at what answers there".to_owned(),
    };
    if why.contains("does not connect to") {
        "federation.ip_deny_list forbids where the name leads; behind a router that may be right: try from outside".to_owned()
    } else if why.contains("no address is known") {
        format!(
            "{host} needs an A or AAAA record, or its name must lead elsewhere by /.well-known/matrix/server; if it has one, this machine's resolver is at fault"
        )
    } else if why.contains("certificate") {
        format!("what answers at {host}:{port} must show a valid certificate for {host}, with its issuers")
    } else if why.contains("refused") {
        format!(
            "nobody listens at {host}:{port}: start the server or the proxy there, or correct the port (well_known.server, service records)"
        )
    } else if transport.is_timeout() || why.contains("timed out") {
        format!(
            "nothing comes back from {host}:{port}: open the port in firewalls, and forward it to the server"
        )
    } else {
        format!("look at what answers at {host}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    async fn seen(text: &str, servers: &[OwnedServerName]) -> Findings {
        crate::tls::install_provider();
        let text = format!("server_name = \"127.0.0.1:9\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n{text}");
        let config = Config::parse(&text, std::path::Path::new("causeway.toml"), []).expect("usable");
        let mut findings = Findings::default();
        look(&config, servers, &Clock::System, &mut findings).await;
        findings
    }

    #[tokio::test]
    async fn what_is_not_to_be_had_is_told_with_what_to_do() {
        let denied = seen("", &[]).await;
        assert_eq!(denied.0[0].state, State::Bad);
        assert!(denied.0[0].advice.as_ref().is_some_and(|advice| advice.contains("ip_deny_list")));
        // Nobody listens at the port to discard.
        let refused = seen("[federation]\nip_deny_list = []\n", &[]).await;
        assert_eq!(refused.0[0].state, State::Good, "found by its literal address");
        assert_eq!(refused.0[1].state, State::Bad);
        assert!(refused.0[1].advice.as_ref().is_some_and(|advice| advice.contains("127.0.0.1:9")));
        let off = seen("[federation]\nenabled = false\n", &[]).await;
        assert_eq!((off.0.len(), off.0[0].state), (1, State::Doubtful));
    }
}
