//! Names to addresses, with the deny-list applied.
//!
//! Not a cache of its own: the resolver keeps answers for as long as they live.
//! Invariant: no lookup takes longer than [`LOOKUP_TIMEOUT`]; a slow resolver
//! costs one attempt, not half an hour.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    proto::rr::{RData, RecordType},
};
use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::{discovery::Route, settings::Overrides};

/// Longest wait for one lookup.
pub const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Routes of hosts that differ from the host itself, kept at once.
const ROUTES_MAX: usize = 10_000;
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 16;

/// Why a name has no address that may be connected to.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// Nobody knows the name, or nobody answered in time.
    #[error("no address is known for {0}")]
    Unknown(String),
    /// There are addresses, none of which this server connects to.
    #[error("{0} leads only to addresses that this server does not connect to")]
    Denied(String),
}

/// Looks names up.
#[derive(Debug)]
pub struct Dns {
    hosts: HashMap<String, Vec<IpAddr>>,
    services: HashMap<String, Vec<(String, u16)>>,
    denied: Vec<IpNet>,
    resolver: Option<TokioResolver>,
}

impl Dns {
    /// Answers from `overrides` first, then, if `resolve_names`, from the
    /// machine's resolver.
    pub fn new(overrides: &Overrides, denied: Vec<IpNet>, resolve_names: bool) -> Self {
        let resolver = resolve_names.then(system_resolver).flatten();
        Self { hosts: overrides.hosts.clone(), services: overrides.services.clone(), denied, resolver }
    }

    /// Whether this server connects to `address`.
    pub fn allows(&self, address: IpAddr) -> bool {
        // ::ffff:127.0.0.1 is 127.0.0.1 to the operating system.
        let address = address.to_canonical();
        !self.denied.iter().any(|net| net.contains(&address))
    }

    /// The addresses of `host` that this server connects to; at least one.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, DnsError> {
        let found = match self.hosts.get(host) {
            Some(fixed) => fixed.clone(),
            None => self.ask(host).await,
        };
        if found.is_empty() {
            return Err(DnsError::Unknown(host.to_owned()));
        }
        let allowed: Vec<IpAddr> =
            found.into_iter().filter(|&address| self.allows(address)).take(ADDRESSES_MAX).collect();
        if allowed.is_empty() {
            return Err(DnsError::Denied(host.to_owned()));
        }
        Ok(allowed)
    }

    async fn ask(&self, host: &str) -> Vec<IpAddr> {
        let Some(resolver) = &self.resolver else { return Vec::new() };
        match tokio::time::timeout(LOOKUP_TIMEOUT, resolver.lookup_ip(host)).await {
            Ok(Ok(found)) => found.iter().collect(),
            Ok(Err(error)) => {
                tracing::debug!(host, %error, "no address");
                Vec::new()
            }
            Err(_) => {
                tracing::warn!(host, "the resolver did not answer in time");
                Vec::new()
            }
        }
    }

    /// The target and port of the service record to try first.
    pub async fn service(&self, name: &str) -> Option<(String, u16)> {
        if let Some(fixed) = self.services.get(name) {
            return fixed.first().cloned();
        }
        // A trailing dot keeps the resolver from trying its search domains.
        let lookup = self.resolver.as_ref()?.lookup(format!("{name}."), RecordType::SRV);
        let found = tokio::time::timeout(LOOKUP_TIMEOUT, lookup).await.ok()?.ok()?;
        let mut records: Vec<_> = found
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::SRV(service) => Some(service.clone()),
                _ => None,
            })
            .collect();
        records.sort_by_key(|service| (service.priority, std::cmp::Reverse(service.weight)));
        let first = records.first()?;
        let target = first.target.to_utf8();
        let target = target.trim_end_matches('.');
        // A target of "." says that the service is decidedly not available.
        (!target.is_empty()).then(|| (target.to_owned(), first.port))
    }
}

fn system_resolver() -> Option<TokioResolver> {
    let built = TokioResolver::builder_tokio().and_then(|mut builder| {
        let options = builder.options_mut();
        options.attempts = 2;
        options.timeout = Duration::from_secs(2);
        builder.build()
    });
    built.inspect_err(|error| tracing::warn!(%error, "no resolver; only addresses can be reached")).ok()
}

/// Resolves the host of a URL to itself.
#[derive(Debug)]
pub struct ResolveHost(pub Arc<Dns>);

impl Resolve for ResolveHost {
    fn resolve(&self, name: Name) -> Resolving {
        let dns = Arc::clone(&self.0);
        Box::pin(async move { Ok(sockets(dns.addresses(name.as_str()).await?)) })
    }
}

/// Resolves the host of a URL to where discovery said that it is.
///
/// The URL must carry the host whose certificate is expected, which is not the
/// one that is connected to; this holds the difference.
#[derive(Debug)]
pub struct ResolveRoute {
    dns: Arc<Dns>,
    routes: Mutex<HashMap<String, Route>>,
}

impl ResolveRoute {
    /// No routes yet.
    pub fn new(dns: Arc<Dns>) -> Self {
        Self { dns, routes: Mutex::default() }
    }

    /// From now on `host` is reached by `route`.
    pub fn set(&self, host: &str, route: Route) {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if routes.len() >= ROUTES_MAX {
            routes.clear();
        }
        routes.insert(host.to_ascii_lowercase(), route);
    }
}

impl Resolve for ResolveRoute {
    fn resolve(&self, name: Name) -> Resolving {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let route = routes.get(name.as_str()).cloned().unwrap_or(Route::Host);
        let dns = Arc::clone(&self.dns);
        Box::pin(async move {
            match route {
                Route::Host => Ok(sockets(dns.addresses(name.as_str()).await?)),
                Route::Service(target) => Ok(sockets(dns.addresses(&target).await?)),
                Route::Address(address) => Ok(sockets(vec![address])),
            }
        })
    }
}

/// Port 0 stands for "the URL's".
fn sockets(addresses: Vec<IpAddr>) -> Addrs {
    Box::new(addresses.into_iter().map(|address| SocketAddr::new(address, 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn denied_addresses_are_left_out_and_none_left_is_an_error() {
        let overrides = Overrides {
            hosts: HashMap::from([
                ("mixed".to_owned(), vec![[10, 0, 0, 1].into(), [1, 2, 3, 4].into()]),
                ("inner".to_owned(), vec![[10, 0, 0, 1].into()]),
            ]),
            ..Overrides::default()
        };
        let dns = Dns::new(&overrides, vec!["10.0.0.0/8".parse().expect("a net")], false);
        assert_eq!(dns.addresses("mixed").await.expect("one"), [IpAddr::from([1, 2, 3, 4])]);
        assert!(matches!(dns.addresses("inner").await, Err(DnsError::Denied(_))));
        assert!(matches!(dns.addresses("absent").await, Err(DnsError::Unknown(_))));
        assert!(!dns.allows("::ffff:10.9.9.9".parse().expect("an address")));
    }
}
