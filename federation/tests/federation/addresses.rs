//! Addresses that this server does not connect to, however they are spelled: in
//! a server's name, or in what it delegates to.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use causeway_federation::{FederationClient, Settings, settings::Overrides};
use causeway_service::clock::Clock;
use http::Method;
use ruma::{OwnedServerName, server_name};
use rustls::RootCertStore;
use tokio::{net::TcpListener, task::JoinSet};

use crate::support::Network;

/// Spellings of 127.0.0.1: short, decimal, hexadecimal, octal, mapped into IPv6.
const SPELLINGS: [&str; 9] = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
];

/// Listens on 127.0.0.1, counts who comes and hangs up on them.
async fn counting(came: Arc<AtomicUsize>, listener: TcpListener) {
    while let Ok((connection, _)) = listener.accept().await {
        came.fetch_add(1, Ordering::SeqCst);
        drop(connection);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_forbidden_address_is_connected_to() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut network = Network::of(&["a.test"]);
    let a = network.start("a.test", folder.path());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let came = Arc::<AtomicUsize>::default();
    let mut tasks = JoinSet::new();
    tasks.spawn(counting(Arc::clone(&came), listener));
    let delegating = |n: usize| format!("wk{n}.test");
    let well_known = SPELLINGS.iter().enumerate().map(|(n, host)| (delegating(n), format!("{host}:{port}")));
    let overrides = Overrides { well_known: well_known.collect(), ..Overrides::default() };
    let client = |denied: &[&str]| {
        let settings = Settings {
            overrides: overrides.clone(),
            resolve_names: false,
            denied_addresses: denied.iter().map(|net| net.parse().expect("a net")).collect(),
            ..Settings::new(server_name!("a.test").to_owned(), Arc::new(RootCertStore::empty()))
        };
        FederationClient::new(&settings, Arc::clone(&a.services.server_keys), Clock::System)
            .expect("a client")
    };
    let ask = async |client: &FederationClient, name: String| {
        let name = OwnedServerName::try_from(name).expect("a server name");
        let path = "/_matrix/federation/v1/version";
        client.request(&name, Method::GET, path, None).await.expect_err("nobody answers there");
        came.swap(0, Ordering::SeqCst)
    };
    let (careful, careless) = (client(&["127.0.0.0/8"]), client(&[]));
    for (n, host) in SPELLINGS.into_iter().enumerate() {
        for name in [format!("{host}:{port}"), delegating(n)] {
            assert_eq!(ask(&careful, name.clone()).await, 0, "{host} by way of {name}");
            // Without the list they are ways to the listener: the test can fail.
            assert!(ask(&careless, name.clone()).await > 0, "{host} by way of {name}");
        }
        // A name without a port asks for delegation and for service records first.
        assert_eq!(ask(&careful, host.to_owned()).await, 0, "{host}");
    }
    // They hold the keys, and with them the data folder.
    drop((careful, careless));
    a.stop().await;
}
