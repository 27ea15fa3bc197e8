//! Programs that register themselves so that users can log in with them (RFC 7591;
//! client-server API, "Client registration").
//!
//! Anybody may register anything, so a registration proves nothing but what its
//! redirect URIs prove. A client's id is a hash of what it said: programs that say the
//! same are one client, and register as often as they like without using up anything.
//!
//! Invariants: rows are bounded in number and size; a client stays for an hour; one by
//! which some device is logged in, until there are too many and nobody uses any other
//! (its sessions go on without it, and it registers anew under the same id); others go
//! when nobody registered them for a while.

use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
pub use causeway_storage::oauth::OAuthClient;
use causeway_storage::{Database, oauth as rows};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{OAuthError, uris};
use crate::clock::Clock;

/// Clients at once.
pub const CLIENTS_MAX: usize = 10_000;
/// How many of them are left when the oldest ones had to give way.
const CLIENTS_KEPT: usize = 9_000;
/// Redirect URIs of a client.
const REDIRECT_URIS_MAX: usize = 16;
/// Bytes of all that a client says of itself.
const CLIENT_BYTES_MAX: usize = 8_192;
/// Bytes of a client's name.
const NAME_BYTES_MAX: usize = 200;
/// How long a client stays that nobody is logged in by, in milliseconds.
const UNUSED_MS: u64 = 24 * 60 * 60 * 1000;
/// How far `registered_ts` may be behind, how often it is looked for unused clients, and
/// how long each stays in any case.
const STEP_MS: u64 = 60 * 60 * 1000;

/// The grant of RFC 6749, section 4.1.
pub const AUTHORIZATION_CODE: &str = "authorization_code";
/// The grant of RFC 6749, section 6.
pub const REFRESH_TOKEN: &str = "refresh_token";
/// The grant of RFC 8628.
pub const DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// All grants that there are.
pub const GRANTS: &[&str] = &[AUTHORIZATION_CODE, REFRESH_TOKEN, DEVICE_CODE];

/// What a program says of itself; what is not understood is left out.
#[derive(Clone, Debug, Deserialize)]
pub struct ClientMetadata {
    client_uri: Option<String>,
    client_name: Option<String>,
    logo_uri: Option<String>,
    tos_uri: Option<String>,
    policy_uri: Option<String>,
    #[serde(default)]
    redirect_uris: Vec<String>,
    response_types: Option<Vec<String>>,
    grant_types: Option<Vec<String>>,
    token_endpoint_auth_method: Option<String>,
    application_type: Option<String>,
}

/// See the module.
pub struct Clients {
    database: Database,
    clock: Clock,
    /// Held from reading rows until what follows from it is committed.
    writing: Mutex<Swept>,
}

/// What is known since the last look at all rows.
#[derive(Default)]
struct Swept {
    /// When that was; `None` for never.
    at_ms: Option<u64>,
    /// Rows now.
    clients: usize,
    /// Whether it made no room.
    full: bool,
}

impl Clients {
    /// Over `database`.
    pub fn new(database: Database, clock: Clock) -> Self {
        Self { database, clock, writing: Mutex::default() }
    }

    /// Registers a client, `admit` being asked first if there is no such one yet.
    ///
    /// # Errors
    /// `invalid_client_metadata` or `invalid_redirect_uri`; 503 `temporarily_unavailable`
    /// when there are too many clients of the last hour.
    pub fn register(
        &self,
        metadata: ClientMetadata,
        admit: impl FnOnce() -> Result<(), OAuthError>,
    ) -> Result<(String, OAuthClient), OAuthError> {
        let mut client = checked(metadata)?;
        let client_id = id_of(&client)?;
        client.registered_ts = self.clock.now_ms();
        let mut swept = self.lock();
        match rows::client(&self.database, &client_id)? {
            Some(known) if known.registered_ts.saturating_add(STEP_MS) > client.registered_ts => {
                return Ok((client_id, known));
            }
            Some(_) => {}
            None => {
                admit()?;
                self.make_room(&mut swept)?;
                swept.clients += 1;
            }
        }
        let mut batch = self.database.batch();
        rows::put_client(&mut batch, &client_id, &client);
        self.database.commit_durable(batch)?;
        Ok((client_id, client))
    }

    /// A client that may use `grant`.
    ///
    /// # Errors
    /// `invalid_client` or `unauthorized_client`.
    pub fn using(&self, client_id: &str, grant: &str) -> Result<OAuthClient, OAuthError> {
        let client = rows::client(&self.database, client_id)?.ok_or_else(OAuthError::invalid_client)?;
        if client.grant_types.iter().any(|registered| registered == grant) {
            return Ok(client);
        }
        Err(OAuthError::new("unauthorized_client", "The client did not register this grant type"))
    }

    /// Deletes clients that nobody uses, when it is time or there are too many; of too
    /// many also those in use.
    fn make_room(&self, swept: &mut Swept) -> Result<(), OAuthError> {
        let now_ms = self.clock.now_ms();
        let is_due = swept.at_ms.is_none_or(|at_ms| at_ms.saturating_add(STEP_MS) <= now_ms);
        if !is_due && swept.clients < CLIENTS_MAX {
            return Ok(());
        }
        // Once in a while is enough to look through all of them in vain.
        if !is_due && swept.full {
            return Err(full());
        }
        let mut candidates = Vec::new();
        let all = rows::clients(&self.database, CLIENTS_MAX)?;
        for (client_id, client) in &all {
            if client.registered_ts.saturating_add(STEP_MS) <= now_ms {
                let in_use = rows::has_sessions(&self.database, client_id)?;
                candidates.push((in_use, client.registered_ts, client_id));
            }
        }
        candidates.sort_unstable();
        let crowd = if all.len() >= CLIENTS_MAX { all.len() - CLIENTS_KEPT } else { 0 };
        let is_old = |at_ms: u64| at_ms.saturating_add(UNUSED_MS) <= now_ms;
        let old = candidates.partition_point(|(in_use, at_ms, _)| !in_use && is_old(*at_ms));
        let doomed = old.max(crowd).min(candidates.len());
        let mut batch = self.database.batch();
        for (_, _, client_id) in &candidates[..doomed] {
            rows::delete_client(&mut batch, client_id);
        }
        self.database.commit_durable(batch)?;
        let clients = all.len() - doomed;
        *swept = Swept { at_ms: Some(now_ms), clients, full: clients >= CLIENTS_MAX };
        if swept.full { Err(full()) } else { Ok(()) }
    }

    /// Counts are whole between statements, so a panic elsewhere is no reason to stop.
    fn lock(&self) -> MutexGuard<'_, Swept> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn full() -> OAuthError {
    let full = OAuthError::new("temporarily_unavailable", "There are too many clients");
    OAuthError { status: 503, ..full }
}

fn id_of(client: &OAuthClient) -> Result<String, OAuthError> {
    let said = serde_json::to_vec(&OAuthClient { registered_ts: 0, ..client.clone() }).unwrap_or_default();
    if said.len() > CLIENT_BYTES_MAX {
        return Err(invalid("This is too much"));
    }
    Ok(URL_SAFE_NO_PAD.encode(Sha256::digest(said)))
}

fn invalid(why: &str) -> OAuthError {
    OAuthError::new("invalid_client_metadata", why)
}

fn checked(said: ClientMetadata) -> Result<OAuthClient, OAuthError> {
    let client_uri = said.client_uri.ok_or_else(|| invalid("client_uri is missing"))?;
    let page = uris::web(&client_uri).ok_or_else(|| invalid("client_uri is no https address"))?;
    for uri in [&said.logo_uri, &said.tos_uri, &said.policy_uri].into_iter().flatten() {
        if !uris::web(uri).is_some_and(|uri| uris::is_within(&uri, &page)) {
            return Err(invalid("logo_uri, tos_uri and policy_uri must be on the host of client_uri"));
        }
    }
    let native = match said.application_type.as_deref() {
        None | Some("web") => false,
        Some("native") => true,
        Some(_) => return Err(invalid("application_type must be web or native")),
    };
    if said.token_endpoint_auth_method.is_some_and(|method| method != "none") {
        return Err(invalid("token_endpoint_auth_method must be none"));
    }
    let asked = said.grant_types.unwrap_or_else(|| vec![AUTHORIZATION_CODE.to_owned()]);
    let has = |grant: &str| asked.iter().any(|asked| asked == grant);
    let grant_types: Vec<String> =
        GRANTS.iter().filter(|grant| has(grant)).map(|grant| (*grant).to_owned()).collect();
    if has(AUTHORIZATION_CODE) {
        if said.redirect_uris.is_empty() {
            return Err(OAuthError::new("invalid_redirect_uri", "redirect_uris are missing"));
        }
        if said.response_types.is_some_and(|types| types.iter().all(|kind| kind != "code")) {
            return Err(invalid("response_types must include code"));
        }
    } else if !has(DEVICE_CODE) {
        return Err(invalid("No grant type gets this client a token"));
    }
    if said.redirect_uris.len() > REDIRECT_URIS_MAX {
        return Err(OAuthError::new("invalid_redirect_uri", "There are too many redirect URIs"));
    }
    if let Some(uri) = said.redirect_uris.iter().find(|uri| !uris::may_be_registered(uri, &page, native)) {
        let shown: String = uri.chars().take(100).collect();
        return Err(OAuthError::new("invalid_redirect_uri", format!("{shown} is not allowed")));
    }
    let name = said.client_name.map(|name| plain_name(&name)).filter(|name| !name.is_empty());
    Ok(OAuthClient {
        client_uri,
        client_name: name,
        logo_uri: said.logo_uri,
        tos_uri: said.tos_uri,
        policy_uri: said.policy_uri,
        redirect_uris: said.redirect_uris,
        grant_types,
        native,
        registered_ts: 0,
    })
}

/// A name without what hides or turns around the text beside it, and of bounded length.
pub fn plain_name(name: &str) -> String {
    let invisible = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
    };
    let mut plain: String = name.chars().filter(|c| !invisible(*c)).take(NAME_BYTES_MAX).collect();
    plain.truncate(plain.floor_char_boundary(NAME_BYTES_MAX));
    plain.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use causeway_storage::Options;
    use ruma::{device_id, user_id};
    use serde_json::{Value, json};

    use super::*;

    fn client(change: &Value) -> Result<OAuthClient, OAuthError> {
        let mut said = json!({ "client_uri": "https://example.com/", "client_name": "App",
            "redirect_uris": ["https://example.com/cb"] });
        for (field, value) in change.as_object().expect("fields") {
            said[field] = value.clone();
        }
        checked(serde_json::from_value(said).expect("metadata"))
    }

    #[test]
    fn what_a_client_says_is_checked_and_what_is_not_understood_is_left_out() {
        let plain = client(&json!({ "grant_types": ["authorization_code", "refresh_token", "x"], "x": 1 }));
        assert_eq!(plain.expect("fine").grant_types, [AUTHORIZATION_CODE, REFRESH_TOKEN]);
        let device = json!({ "grant_types": [DEVICE_CODE], "redirect_uris": [] });
        assert_eq!(client(&device).expect("fine").grant_types, [DEVICE_CODE]);
        for wrong in [
            json!({ "client_uri": null }),
            json!({ "client_uri": "http://example.com/" }),
            json!({ "client_uri": "https://u:p@example.com/" }),
            json!({ "logo_uri": "https://elsewhere.com/x.png" }),
            json!({ "policy_uri": "javascript:alert(1)" }),
            json!({ "token_endpoint_auth_method": "client_secret_basic" }),
            json!({ "application_type": "x" }),
            json!({ "grant_types": ["refresh_token"] }),
            json!({ "response_types": ["token"] }),
        ] {
            let refused = client(&wrong).expect_err("refused");
            assert_eq!(refused.code, "invalid_client_metadata", "{wrong}");
        }
        let many: Vec<String> = (0..17).map(|n| format!("https://example.com/{n}")).collect();
        for wrong in [json!([]), json!(["https://evil.com/"]), json!(["http://127.0.0.1/"]), json!(many)] {
            let refused = client(&json!({ "redirect_uris": wrong })).expect_err("refused");
            assert_eq!(refused.code, "invalid_redirect_uri", "{wrong}");
        }
    }

    #[test]
    fn a_name_hides_nothing() {
        assert_eq!(plain_name(" A\u{202e}p\u{200b}p\n "), "App");
        assert_eq!(plain_name(&"ä".repeat(500)).len(), NAME_BYTES_MAX);
    }

    fn try_register(clients: &Clients, name: &str) -> Result<String, u16> {
        let said = json!({ "client_uri": "https://example.com/", "client_name": name,
            "redirect_uris": ["https://example.com/cb"] });
        let said = serde_json::from_value(said).expect("metadata");
        clients.register(said, || Ok(())).map(|(id, _)| id).map_err(|refused| refused.status)
    }

    fn register(clients: &Clients, name: &str) -> String {
        try_register(clients, name).expect("registered")
    }

    #[test]
    fn who_says_the_same_is_the_same_client_and_unused_ones_expire() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let database = Database::open(folder.path(), &Options::default()).expect("open");
        let clock = Clock::manual(0);
        let clients = Clients::new(database.clone(), clock.clone());
        let (unused, used) = (register(&clients, "unused"), register(&clients, "used"));
        assert_ne!(unused, used);
        assert_eq!(register(&clients, "used"), used);
        let mut batch = database.batch();
        rows::put_session(&mut batch, &used, user_id!("@a:x"), device_id!("D"));
        database.commit_durable(batch).expect("commit");
        assert!(clients.using(&unused, AUTHORIZATION_CODE).is_ok());
        clock.advance(Duration::from_millis(UNUSED_MS));
        register(&clients, "another");
        let gone = clients.using(&unused, AUTHORIZATION_CODE).expect_err("gone");
        assert_eq!((gone.code, gone.status), ("invalid_client", 401));
        assert!(clients.using(&used, AUTHORIZATION_CODE).is_ok());
        assert_eq!(clients.using(&used, DEVICE_CODE).expect_err("not asked").code, "unauthorized_client");
    }

    /// Clients of one moment, as many as there may be but `fewer`.
    fn fill(database: &Database, at_ms: u64, in_use: bool, fewer: usize) {
        let mut batch = database.batch();
        for number in fewer..CLIENTS_MAX {
            let client = OAuthClient { registered_ts: at_ms, ..OAuthClient::default() };
            rows::put_client(&mut batch, &number.to_string(), &client);
            if in_use {
                rows::put_session(&mut batch, &number.to_string(), user_id!("@a:x"), device_id!("D"));
            }
        }
        database.commit_durable(batch).expect("commit");
    }

    #[test]
    fn when_there_are_too_many_the_oldest_give_way_and_those_in_use_last() {
        for in_use in [false, true] {
            let folder = tempfile::tempdir().expect("temporary folder");
            let database = Database::open(folder.path(), &Options::default()).expect("open");
            let clock = Clock::manual(0);
            let clients = Clients::new(database.clone(), clock.clone());
            clock.advance(Duration::from_millis(1));
            let unused = register(&clients, "unused");
            fill(&database, 0, in_use, 1);
            clock.advance(Duration::from_millis(STEP_MS));
            let newest = register(&clients, "newest");
            // The oldest, unless they are in use.
            assert_eq!(clients.using(&unused, AUTHORIZATION_CODE).is_err(), in_use);
            assert!(clients.using(&newest, AUTHORIZATION_CODE).is_ok());
            assert_eq!(rows::clients(&database, CLIENTS_MAX).expect("read").len(), CLIENTS_KEPT + 1);
        }
    }

    #[test]
    fn no_client_gives_way_in_its_first_hour_and_that_is_not_looked_for_again_at_once() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let database = Database::open(folder.path(), &Options::default()).expect("open");
        let clock = Clock::manual(0);
        let clients = Clients::new(database.clone(), clock.clone());
        fill(&database, 0, false, 0);
        assert_eq!(try_register(&clients, "early"), Err(503));
        assert_eq!(rows::clients(&database, CLIENTS_MAX).expect("read").len(), CLIENTS_MAX);
        let mut batch = database.batch();
        rows::delete_client(&mut batch, "0");
        database.commit_durable(batch).expect("commit");
        assert_eq!(try_register(&clients, "early"), Err(503), "as was found");
        clock.advance(Duration::from_millis(STEP_MS));
        register(&clients, "late");
    }
}
