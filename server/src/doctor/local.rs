//! What is on this machine: the data folder, its disk, file handles, addresses, certificates.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::Arc,
    time::Duration,
};

use causeway_service::{clock::Clock, error::Chain};
use reqwest::Method;
use rustls::{
    CertificateError, RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::{net::TcpStream, time::timeout};

use super::Findings;
use crate::{
    admin::{Call, CallError, ask},
    config::{Config, Listener},
    handles::Handles,
    tls,
};

/// Others who use the group or the machine.
const OTHERS: u32 = 0o077;
/// The disk is told of when it has less than so many reserves.
const RESERVES: u64 = 4;
/// Connections that a small server should be able to serve.
const CONNECTIONS_MIN: usize = 512;
/// How long an own listener may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A certificate that ends sooner is told of.
const CERTIFICATE_LEFT: Duration = Duration::from_hours(14 * 24);

pub(super) async fn look(config: &Config, clock: &Clock, findings: &mut Findings) {
    data_folder(config, findings);
    let handles = Handles::take();
    if handles.connections < CONNECTIONS_MIN {
        let what = format!("file handles are for {} connections only", handles.connections);
        findings.doubtful(what, "raise the limit of open files (ulimit -n; LimitNOFILE= in a systemd unit)");
    } else {
        findings.good(format!("file handles: enough for {} connections", handles.connections));
    }
    let is_running = is_running(&config.data_folder, findings).await;
    for listener in &config.listeners {
        address(listener, is_running, findings).await;
    }
    let names = federation_host(config);
    for listener in &config.listeners {
        certificate(config, listener, &names, clock, findings);
    }
}

/// Whose certificate other servers expect, as far as the configuration tells.
pub(super) fn federation_host(config: &Config) -> String {
    let delegated = ruma::ServerName::parse(config.well_known.server.as_str());
    delegated.as_ref().map_or_else(|_| config.server_name.host().to_owned(), |name| name.host().to_owned())
}

fn data_folder(config: &Config, findings: &mut Findings) {
    let folder = &config.data_folder;
    let shown = folder.display();
    let Ok(metadata) = fs::metadata(folder) else {
        findings.doubtful(
            format!("data folder {shown} is not there yet"),
            "the first start makes it; its user must be allowed to",
        );
        return;
    };
    // Whoever can't make files here can't run the server, either.
    match tempfile::tempfile_in(folder) {
        Ok(_) => findings.good(format!("data folder {shown} can be written to")),
        Err(error) => findings.bad(
            format!("data folder {shown} can't be written to: {error}"),
            "run the server, and this command, as the user that owns the folder",
        ),
    }
    if metadata.permissions().mode() & OTHERS != 0 {
        findings.doubtful(
            format!("data folder {shown} can be read by others"),
            format!("it holds the server's signing key and users' tokens: chmod 700 {shown}"),
        );
    }
    let Some(free) = causeway_storage::free_bytes(folder) else { return };
    let (reserve, told) =
        (config.storage.keep_free_bytes, format!("{} MiB are free on the disk of {shown}", free >> 20));
    let advice = format!(
        "make room, or lower storage.keep_free_bytes ({} MiB): below it nothing new is accepted",
        reserve >> 20
    );
    if free < reserve {
        findings.bad(told, advice);
    } else if free < reserve.saturating_mul(RESERVES) {
        findings.doubtful(told, advice);
    } else {
        findings.good(told);
    }
}

async fn is_running(data_folder: &Path, findings: &mut Findings) -> bool {
    match ask(data_folder, &Call::new(Method::GET, ["_synapse", "admin", "v1", "server_version"])).await {
        Ok(answer) => {
            let version = answer["server_version"].as_str().unwrap_or("of unknown version");
            findings.good(format!("the server runs: {version}"));
            true
        }
        Err(CallError::Unreachable { .. }) => {
            findings.doubtful("the server does not run", "start it: then its addresses can be tried, too");
            false
        }
        Err(error) => {
            let what = format!("the server runs, but does not answer well: {}", Chain(&error));
            findings.bad(what, "look into its log");
            true
        }
    }
}

/// A running server is to answer at its address; of one that does not run it must be free.
async fn address(listener: &Listener, is_running: bool, findings: &mut Findings) {
    let address = listener.address;
    if address.port() == 0 {
        findings.doubtful(
            format!("listener {address} takes any free port"),
            "others can't know which: give it one, unless this is a test",
        );
    } else if is_running {
        let reached = timeout(CONNECT_TIMEOUT, TcpStream::connect(reachable(address))).await;
        match reached.map_err(io::Error::from).flatten() {
            Ok(_) => findings.good(format!("listener {address} takes connections")),
            Err(error) => findings.bad(
                format!("listener {address} takes no connections: {error}"),
                "was the configuration changed since the server started? Start it again",
            ),
        }
    } else {
        match std::net::TcpListener::bind(address) {
            Ok(_) => findings.good(format!("listener {address} can be taken")),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => findings.bad(
                format!("listener {address} is in use by another program"),
                format!("find it (ss -ltnp 'sport = :{}') or take another port", address.port()),
            ),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => findings.bad(
                format!("listener {address} is not permitted"),
                "ports below 1024 need CAP_NET_BIND_SERVICE, or a reverse proxy in front",
            ),
            Err(error) => findings.bad(
                format!("listener {address} can't be taken: {error}"),
                "the address must be one of this machine",
            ),
        }
    }
}

/// An address that stands for all of the machine's can't be connected to.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Whether other servers would believe what a listener shows.
fn certificate(config: &Config, listener: &Listener, host: &str, clock: &Clock, findings: &mut Findings) {
    let Some((certificate, key)) = listener.tls() else { return };
    let shown = certificate.display();
    let advice = "certificate and private_key must be PEM files that belong together, chain first";
    if let Err(error) = tls::server_config(certificate, key) {
        return findings.bad(Chain(&error).to_string(), advice);
    }
    let chain = match tls::certificates(certificate) {
        Ok(chain) => chain,
        Err(error) => return findings.bad(Chain(&error).to_string(), advice),
    };
    let now = Duration::from_millis(clock.now_ms());
    let judge = |at: Duration| judge(config, &chain, host, at);
    match (judge(now), judge(now + CERTIFICATE_LEFT)) {
        (Ok(()), Ok(())) => findings.good(format!("certificate {shown} is valid for {host}")),
        (Ok(()), Err(_)) => findings.doubtful(
            format!("certificate {shown} ends within {} days", CERTIFICATE_LEFT.as_secs() / 86_400),
            "renew it and send the server SIGHUP",
        ),
        (Err(why), _) => findings.bad(format!("certificate {shown}: {why}"), advice_on(&why, host)),
    }
}

fn judge(config: &Config, chain: &[CertificateDer<'static>], host: &str, at: Duration) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    let authorities = tls::authorities(&config.federation.extra_ca_files);
    roots.add_parsable_certificates(authorities.map_err(|error| Chain(&error).to_string())?);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    let verifier = verifier.map_err(|error| format!("there are no authorities to judge it by: {error}"))?;
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
    let name = name.map_err(|_| format!("{host} is no name of a certificate"))?;
    let (own, issuers) = chain.split_first().ok_or("it is empty")?;
    let judged = verifier.verify_server_cert(own, issuers, &name, &[], UnixTime::since_unix_epoch(at));
    judged.map(drop).map_err(|error| match error {
        rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => "it has expired".to_owned(),
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => format!("it is not for {host}"),
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "nobody knows who issued it".to_owned()
        }
        error => error.to_string(),
    })
}

fn advice_on(why: &str, host: &str) -> String {
    match why {
        "it has expired" => "renew it and send the server SIGHUP".to_owned(),
        "nobody knows who issued it" => {
            "put the issuers' certificates behind it in the file; in a closed network name its authority in federation.extra_ca_files, on all servers".to_owned()
        }
        _ => format!(
            "other servers expect one for {host}: get one, or name another host in well_known.server"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    fn config(folder: &Path, extra: &str) -> Config {
        let text = format!(
            "server_name = \"a.example\"\ndata_folder = {:?}\n{extra}",
            folder.join("data").display().to_string()
        );
        let text = if extra.contains("[[listeners]]") {
            text
        } else {
            format!("{text}[[listeners]]\naddress = \"127.0.0.1:0\"\n")
        };
        Config::parse(&text, Path::new("causeway.toml"), []).expect("usable")
    }

    fn states(findings: &Findings, part: &str) -> Vec<State> {
        let found = findings.0.iter().filter(|finding| finding.what.contains(part));
        found.map(|finding| finding.state).collect()
    }

    #[tokio::test]
    async fn folders_and_addresses_are_judged() {
        crate::tls::install_provider();
        let folder = tempfile::tempdir().expect("temporary folder");
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = taken.local_addr().expect("has one");
        let config = config(folder.path(), &format!("[[listeners]]\naddress = \"{address}\"\n"));
        let mut findings = Findings::default();
        look(&config, &Clock::System, &mut findings).await;
        assert_eq!(states(&findings, "is not there yet"), [State::Doubtful]);
        assert_eq!(states(&findings, "in use by another program"), [State::Bad]);
        assert!(findings.0.iter().all(|one| one.state == State::Good || one.advice.is_some()));

        drop(taken);
        fs::create_dir(&config.data_folder).expect("made");
        fs::set_permissions(&config.data_folder, fs::Permissions::from_mode(0o755)).expect("set");
        let mut full = config.clone();
        full.storage.keep_free_bytes = u64::MAX;
        let mut findings = Findings::default();
        look(&full, &Clock::System, &mut findings).await;
        assert_eq!(states(&findings, "can be read by others"), [State::Doubtful]);
        assert_eq!(states(&findings, "MiB are free"), [State::Bad]);
        assert_eq!(states(&findings, "can be taken"), [State::Good]);
        assert_eq!(states(&findings, "does not run"), [State::Doubtful]);
    }

    #[test]
    fn certificates_are_judged_as_other_servers_do() {
        crate::tls::install_provider();
        let folder = tempfile::tempdir().expect("temporary folder");
        let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).expect("made");
        let path = |name: &str| folder.path().join(name).display().to_string();
        fs::write(path("cert.pem"), made.cert.pem()).expect("written");
        fs::write(path("key.pem"), made.signing_key.serialize_pem()).expect("written");
        let listener = format!(
            "[[listeners]]\naddress = \"127.0.0.1:0\"\ncertificate = {:?}\nprivate_key = {:?}\n",
            path("cert.pem"),
            path("key.pem")
        );
        let trusting = format!("{listener}[federation]\nextra_ca_files = [{:?}]\n", path("cert.pem"));
        let judged = |text: &str, host: &str, clock: &Clock| {
            let (config, mut findings) = (config(folder.path(), text), Findings::default());
            certificate(&config, &config.listeners[0], host, clock, &mut findings);
            findings.0.remove(0)
        };
        assert_eq!(judged(&trusting, "a.example", &Clock::System).state, State::Good);
        let other = judged(&trusting, "b.example", &Clock::System);
        assert!(other.state == State::Bad && other.what.contains("not for b.example"), "{other:?}");
        let unknown = judged(&listener, "a.example", &Clock::System);
        assert!(unknown.state == State::Bad && unknown.advice.is_some(), "{unknown:?}");
        // In the year 5138.
        let late = judged(&trusting, "a.example", &Clock::manual(100_000_000_000_000));
        assert!(late.state == State::Bad && late.what.contains("expired"), "{late:?}");
    }
}
