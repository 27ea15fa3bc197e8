//! Where a server is (server-server API, "Resolving server names").
//!
//! [`Discovery::find`] walks the six steps and remembers the answer for as long
//! as its sources allow, within bounds. It doesn't connect to anybody but for
//! `/.well-known/matrix/server`; the connection is the client's.
//!
//! Invariant: every address that is connected to as a result of this has passed
//! [`dns::Dns::allows`]: literals here, names when they are resolved.

pub mod dns;
pub mod well_known;

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use causeway_service::clock::Clock;
use ruma::{OwnedServerName, ServerName};

use self::{
    dns::Dns,
    well_known::{WellKnown, WellKnownSource},
};

/// Port of a server that names none.
pub const DEFAULT_PORT: u16 = 8448;
/// Port of pages.
const WEB_PORT: u16 = 443;
/// Servers whose place is remembered at once.
pub const REMEMBERED_MAX: usize = 10_000;
/// How long a place that service records gave is remembered.
const SERVICE_LIFETIME: Duration = Duration::from_mins(10);
/// How long it is remembered that a server has no well-known file.
const NO_WELL_KNOWN_LIFETIME: Duration = Duration::from_hours(1);

/// Where and as whom to address a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Whose certificate must be shown; also the host of the URL.
    pub host: String,
    /// Port to connect to.
    pub port: u16,
    /// The `Host` header.
    pub host_header: String,
    /// What to connect to.
    pub route: Route,
}

/// What to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// The host itself.
    Host,
    /// The target of a service record, in place of the host.
    Service(String),
    /// A fixed address, in place of the host.
    Address(IpAddr),
}

/// Why a server's place is unknown.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// The name leads to an address that settings forbid.
    #[error("{0} is an address that this server does not connect to")]
    Denied(IpAddr),
}

/// Finds servers.
#[derive(Debug)]
pub struct Discovery {
    dns: Arc<Dns>,
    well_known: WellKnownSource,
    fixed: HashMap<OwnedServerName, SocketAddr>,
    clock: Clock,
    remembered: Mutex<HashMap<OwnedServerName, Remembered>>,
}

#[derive(Debug)]
struct Remembered {
    place: Place,
    until_ms: u64,
}

impl Discovery {
    /// A discovery with an empty memory.
    pub fn new(
        dns: Arc<Dns>,
        well_known: WellKnownSource,
        fixed: HashMap<OwnedServerName, SocketAddr>,
        clock: Clock,
    ) -> Self {
        Self { dns, well_known, fixed, clock, remembered: Mutex::default() }
    }

    /// The place of `server`, from memory or by asking.
    pub async fn find(&self, server: &ServerName) -> Result<Place, DiscoveryError> {
        let now_ms = self.clock.now_ms();
        if let Some(remembered) = self.lock().get(server)
            && now_ms < remembered.until_ms
        {
            return Ok(remembered.place.clone());
        }
        let (place, lifetime) = self.ask(server).await?;
        if let Some(lifetime) = lifetime {
            let until_ms = now_ms.saturating_add(u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX));
            let mut all = self.lock();
            if all.len() >= REMEMBERED_MAX {
                all.retain(|_, remembered| now_ms < remembered.until_ms);
            }
            if all.len() < REMEMBERED_MAX {
                all.insert(server.to_owned(), Remembered { place: place.clone(), until_ms });
            }
        }
        Ok(place)
    }

    /// Where whoever runs `server` publishes what is no part of Matrix: at the name itself, by the
    /// port that it has, or that of the web. Of an address without a port, Matrix's.
    /// To what the name delegates makes no difference.
    pub fn page(&self, server: &ServerName) -> Result<Place, DiscoveryError> {
        if let Some(place) = self.fixed(server) {
            return Ok(place);
        }
        if let Some(place) = self.explicit(server)? {
            return Ok(place);
        }
        let host = server.host().to_owned();
        Ok(Place { host_header: host.clone(), host, port: WEB_PORT, route: Route::Host })
    }

    /// Forgets the place of `server`: nobody answered there.
    pub fn forget(&self, server: &ServerName) {
        self.lock().remove(server);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<OwnedServerName, Remembered>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place and how long it may be remembered; `None`: it costs nothing to find again.
    async fn ask(&self, server: &ServerName) -> Result<(Place, Option<Duration>), DiscoveryError> {
        if let Some(place) = self.fixed(server) {
            return Ok((place, None));
        }
        // Steps 1 and 2: a literal or an explicit port.
        if let Some(place) = self.explicit(server)? {
            return Ok((place, None));
        }
        // Step 3: what the well-known file delegates to.
        match self.well_known.ask(server.host()).await {
            WellKnown::Delegates { to, lifetime } => {
                let place = match self.explicit(&to)? {
                    Some(place) => place,
                    None => self.by_service(&to).await,
                };
                Ok((place, Some(lifetime)))
            }
            // Steps 4 to 6.
            WellKnown::Absent => Ok((self.by_service(server).await, Some(NO_WELL_KNOWN_LIFETIME))),
            WellKnown::Unreachable => Ok((self.by_service(server).await, Some(SERVICE_LIFETIME))),
        }
    }

    /// A server whose place settings say.
    fn fixed(&self, server: &ServerName) -> Option<Place> {
        let address = self.fixed.get(server)?;
        let host_header = server.as_str().to_owned();
        let host = server.host().to_owned();
        Some(Place { host, port: address.port(), host_header, route: Route::Address(address.ip()) })
    }

    /// A name that needs no lookup: an address literal, or a name with a port.
    fn explicit(&self, server: &ServerName) -> Result<Option<Place>, DiscoveryError> {
        let literal = literal(server.host());
        if let Some(address) = literal
            && !self.dns.allows(address)
        {
            return Err(DiscoveryError::Denied(address));
        }
        if literal.is_none() && server.port().is_none() {
            return Ok(None);
        }
        Ok(Some(Place {
            host: server.host().to_owned(),
            port: server.port().unwrap_or(DEFAULT_PORT),
            host_header: server.as_str().to_owned(),
            route: Route::Host,
        }))
    }

    /// By service record, current name first, or else the host at the default port.
    async fn by_service(&self, server: &ServerName) -> Place {
        let host = server.host().to_owned();
        for service in ["_matrix-fed._tcp", "_matrix._tcp"] {
            if let Some((target, port)) = self.dns.service(&format!("{service}.{host}")).await {
                let route = Route::Service(target);
                return Place { host_header: host.clone(), host, port, route };
            }
        }
        Place { host_header: host.clone(), host, port: DEFAULT_PORT, route: Route::Host }
    }
}

/// The address that `host` spells, IPv6 in brackets.
pub fn literal(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => v6.parse().ok().map(IpAddr::V6),
        None => host.parse().ok().map(IpAddr::V4),
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;
    use crate::settings::Overrides;

    fn discovery(denied: &[&str]) -> Discovery {
        let overrides = Overrides {
            services: HashMap::from([
                ("_matrix-fed._tcp.srv.example".to_owned(), vec![("t.example".to_owned(), 1)]),
                ("_matrix._tcp.srv.example".to_owned(), vec![("old.example".to_owned(), 2)]),
                ("_matrix._tcp.old.example".to_owned(), vec![("t.example".to_owned(), 3)]),
                ("_matrix-fed._tcp.to-srv.example".to_owned(), vec![("t.example".to_owned(), 4)]),
            ]),
            well_known: HashMap::from(
                [
                    ("wk-port.example", "d.example:444"),
                    ("wk-ip.example", "127.0.0.7"),
                    ("wk-ip6.example", "[::1]:555"),
                    ("wk-srv.example", "to-srv.example"),
                    ("wk-old.example", "old.example"),
                    ("wk-bare.example", "bare.example"),
                    ("wk-broken.example", "not a name"),
                ]
                .map(|(host, to)| (host.to_owned(), to.to_owned())),
            ),
            ..Overrides::default()
        };
        let denied = denied.iter().map(|net| net.parse().expect("a net")).collect();
        let dns = Arc::new(Dns::new(&overrides, denied, false));
        let well_known = WellKnownSource::fixed(overrides.well_known);
        let fixed = HashMap::from([(server_name!("fixed.example").to_owned(), ([127, 0, 0, 9], 99).into())]);
        Discovery::new(dns, well_known, fixed, Clock::manual(0))
    }

    fn place(host: &str, port: u16, host_header: &str, route: Route) -> Place {
        Place { host: host.to_owned(), port, host_header: host_header.to_owned(), route }
    }

    #[tokio::test]
    async fn each_step_of_the_specification() {
        let discovery = discovery(&[]);
        let service = |target: &str| Route::Service(target.to_owned());
        for (server, expected) in [
            ("1.2.3.4", place("1.2.3.4", 8448, "1.2.3.4", Route::Host)),
            ("1.2.3.4:5", place("1.2.3.4", 5, "1.2.3.4:5", Route::Host)),
            ("[::1]", place("[::1]", 8448, "[::1]", Route::Host)),
            ("[::1]:5", place("[::1]", 5, "[::1]:5", Route::Host)),
            ("port.example:80", place("port.example", 80, "port.example:80", Route::Host)),
            ("wk-port.example", place("d.example", 444, "d.example:444", Route::Host)),
            ("wk-ip.example", place("127.0.0.7", 8448, "127.0.0.7", Route::Host)),
            ("wk-ip6.example", place("[::1]", 555, "[::1]:555", Route::Host)),
            ("wk-srv.example", place("to-srv.example", 4, "to-srv.example", service("t.example"))),
            ("wk-old.example", place("old.example", 3, "old.example", service("t.example"))),
            ("wk-bare.example", place("bare.example", 8448, "bare.example", Route::Host)),
            ("wk-broken.example", place("wk-broken.example", 8448, "wk-broken.example", Route::Host)),
            ("srv.example", place("srv.example", 1, "srv.example", service("t.example"))),
            ("old.example", place("old.example", 3, "old.example", service("t.example"))),
            ("bare.example", place("bare.example", 8448, "bare.example", Route::Host)),
            (
                "fixed.example",
                place("fixed.example", 99, "fixed.example", Route::Address([127, 0, 0, 9].into())),
            ),
        ] {
            let server = OwnedServerName::try_from(server).expect("a name");
            assert_eq!(discovery.find(&server).await.expect("found"), expected, "{server}");
        }
    }

    #[tokio::test]
    async fn denied_literals_are_refused_also_when_delegated_to() {
        let discovery = discovery(&["127.0.0.0/8", "::1/128"]);
        for server in ["127.1.2.3", "127.0.0.1:80", "[::1]", "[::ffff:127.0.0.1]:80", "wk-ip.example"] {
            let server = OwnedServerName::try_from(server).expect("a name");
            let refused = discovery.find(&server).await;
            assert!(matches!(refused, Err(DiscoveryError::Denied(_))), "{server}");
        }
    }

    #[test]
    fn pages_are_at_the_name_itself() {
        let allowing = discovery(&[]);
        for (server, expected) in [
            ("wk-port.example", place("wk-port.example", 443, "wk-port.example", Route::Host)),
            ("srv.example", place("srv.example", 443, "srv.example", Route::Host)),
            ("port.example:80", place("port.example", 80, "port.example:80", Route::Host)),
            ("1.2.3.4", place("1.2.3.4", 8448, "1.2.3.4", Route::Host)),
            (
                "fixed.example",
                place("fixed.example", 99, "fixed.example", Route::Address([127, 0, 0, 9].into())),
            ),
        ] {
            let server = OwnedServerName::try_from(server).expect("a name");
            assert_eq!(allowing.page(&server).expect("found"), expected, "{server}");
        }
        let denying = discovery(&["127.0.0.0/8"]);
        assert!(matches!(denying.page(server_name!("127.0.0.1:80")), Err(DiscoveryError::Denied(_))));
    }

    #[tokio::test]
    async fn places_are_forgotten_in_time_and_on_demand() {
        let discovery = discovery(&[]);
        let server = server_name!("bare.example");
        discovery.find(server).await.expect("found");
        assert_eq!(discovery.lock().len(), 1);
        discovery.forget(server);
        assert!(discovery.lock().is_empty());
        discovery.find(server).await.expect("found");
        discovery.clock.advance(NO_WELL_KNOWN_LIFETIME);
        let until_ms = discovery.lock()[server].until_ms;
        discovery.find(server).await.expect("found");
        assert!(discovery.lock()[server].until_ms > until_ms);
    }
}
