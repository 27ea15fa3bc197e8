//! A login by OAuth: the library finds out that it is offered, registers itself and
//! makes the address; a browser (of a few lines) shows the page there and sends its
//! form; the library takes the code from where that leads, refreshes its tokens, is
//! restored from what it keeps, replaces its user's cross-signing keys, and logs out.

use matrix_sdk::{
    Client,
    authentication::oauth::{
        OAuthSession,
        registration::{ApplicationType, ClientMetadata, Localized, OAuthGrantType},
    },
    encryption::CrossSigningResetAuthType,
    reqwest::{self, Url, header, redirect::Policy},
    ruma::{OwnedDeviceId, serde::Raw},
    store::RoomLoadSettings,
    utils::UrlOrQuery,
};

use crate::person::{Result, ensure, equal};

/// Where the library would listen if this were more than a test.
const REDIRECT: &str = "http://127.0.0.1:4711/callback";

/// Somebody who logs in by OAuth at the homeserver, and out again.
pub async fn story(url: &str, name: &str, password: &str) -> Result<()> {
    let device_id = OwnedDeviceId::from("ALICEWATCH");
    let client = log_in(url, name, password, &device_id).await?;
    equal(&client.device_id(), &Some(&*device_id))?;
    client.encryption().wait_for_e2ee_initialization_tasks().await;
    client.encryption().bootstrap_cross_signing(None).await?;
    println!("logged in by a code, with cross-signing keys");

    let before = client.session_tokens().ok_or("no tokens")?;
    client.oauth().refresh_access_token().await?;
    let after = client.session_tokens().ok_or("no tokens")?;
    ensure(before.access_token != after.access_token, || "the tokens are the same".to_owned())?;
    client.whoami().await?;
    println!("refreshed");

    let session: OAuthSession = client.oauth().full_session().ok_or("no session")?;
    let restored = Client::builder().homeserver_url(url).handle_refresh_tokens().build().await?;
    restored.oauth().restore_session(session, RoomLoadSettings::default()).await?;
    equal(&restored.whoami().await?.device_id.as_deref(), &Some(&*device_id))?;
    println!("restored");

    reset(&client, name, password).await?;
    println!("new cross-signing keys, which the user allowed on the page for his account");

    revoke(&restored).await?;
    ensure(restored.whoami().await.is_err(), || "the tokens open something yet".to_owned())?;
    println!("logged out");
    Ok(())
}

async fn log_in(url: &str, name: &str, password: &str, device_id: &OwnedDeviceId) -> Result<Client> {
    let client = Client::builder().homeserver_url(url).build().await?;
    let oauth = client.oauth();
    // Loopback addresses are registered without a port.
    let mut redirect_uri = Url::parse(REDIRECT)?;
    redirect_uri.set_port(None).map_err(|()| "a port")?;
    let mut said = ClientMetadata::new(
        ApplicationType::Native,
        vec![OAuthGrantType::AuthorizationCode { redirect_uris: vec![redirect_uri] }],
        Localized::new(Url::parse("https://example.org/")?, []),
    );
    said.client_name = Some(Localized::new("A watch".to_owned(), []));
    let said = Raw::new(&said)?;
    let device_id = Some(device_id.clone());
    let asking = oauth.login(Url::parse(REDIRECT)?, device_id, Some(said.into()), None).build().await?;
    let led_to = Browser::new()?.consent(&asking.url, name, password).await?;
    ensure(led_to.as_str().starts_with(REDIRECT), || format!("led to {led_to}"))?;
    oauth.finish_login(UrlOrQuery::Url(led_to)).await?;
    Ok(client)
}

/// Replaces the cross-signing keys, which the server lets nobody do before the user
/// allowed it there.
async fn reset(client: &Client, name: &str, password: &str) -> Result<()> {
    client.encryption().wait_for_e2ee_initialization_tasks().await;
    let handle = client.encryption().reset_cross_signing().await?.ok_or("nothing is asked")?;
    let CrossSigningResetAuthType::OAuth(asked) = handle.auth_type() else {
        return Err("the server asks for something else".into());
    };
    let mut browser = Browser::new()?;
    browser.act(&asked.approval_url, &[("username", name), ("password", password)]).await?;
    browser.act(&asked.approval_url, &[]).await?;
    Ok(handle.auth(None).await?)
}

/// What `logout` does, which the library refuses to do without TLS.
async fn revoke(client: &Client) -> Result<()> {
    let endpoint = client.oauth().server_metadata().await?.revocation_endpoint;
    let token = client.session_tokens().ok_or("no tokens")?.access_token;
    let answer = Browser::new()?.post(&endpoint, "", &[("token", &token)]).await?;
    ensure(answer.status() == 200, || format!("{answer:?}"))
}

/// As much of a browser as it takes.
struct Browser {
    http: reqwest::Client,
    cookies: Vec<String>,
}

impl Browser {
    fn new() -> Result<Self> {
        let http = reqwest::Client::builder().redirect(Policy::none()).build()?;
        Ok(Self { http, cookies: Vec::new() })
    }

    /// Fills in the page at `url`; where that leads.
    async fn consent(&mut self, url: &Url, name: &str, password: &str) -> Result<Url> {
        let answer = self.act(url, &[("username", name), ("password", password)]).await?;
        let led_to = answer.headers().get(header::LOCATION).ok_or_else(|| format!("{answer:?}"))?;
        Ok(Url::parse(led_to.to_str()?)?)
    }

    /// Sends the first form of the page at `url`.
    async fn act(&mut self, url: &Url, filled: &[(&str, &str)]) -> Result<reqwest::Response> {
        let page = self.http.get(url.clone()).header(header::COOKIE, self.cookies.join("; "));
        let page = self.received(page.send().await?)?;
        ensure(page.status() == 200, || format!("{page:?}"))?;
        let html = page.text().await?;
        let form = between(&html, "<form", "</form>")?;
        // A form that says nothing goes to its own page.
        let action = between(form, "action=\"", "\"").unwrap_or_default().replace("&amp;", "&");
        let action = url.join(&action)?;
        let mut fields = filled.to_vec();
        for field in form.split("<input type=hidden ").skip(1) {
            fields.push((between(field, "name=\"", "\"")?, between(field, "value=\"", "\"")?));
        }
        let answer = self.post(&action, &self.cookies.join("; "), &fields).await?;
        ensure(answer.status().as_u16() < 400, || format!("{answer:?}"))?;
        self.received(answer)
    }

    /// Keeps an answer's cookies.
    fn received(&mut self, answer: reqwest::Response) -> Result<reqwest::Response> {
        for cookie in answer.headers().get_all(header::SET_COOKIE) {
            let pair = cookie.to_str()?.split(';').next().unwrap_or_default();
            self.cookies.push(pair.to_owned());
        }
        Ok(answer)
    }

    async fn post(&self, url: &Url, cookie: &str, fields: &[(&str, &str)]) -> Result<reqwest::Response> {
        let mut encoded = Url::parse("form:")?;
        encoded.query_pairs_mut().extend_pairs(fields);
        let request = self.http.post(url.clone()).header(header::COOKIE, cookie);
        let request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        Ok(request.body(encoded.query().unwrap_or_default().to_owned()).send().await?)
    }
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> Result<&'a str> {
    let inner = text.split_once(from).and_then(|(_, rest)| rest.split_once(to)).map(|(inner, _)| inner);
    inner.ok_or_else(|| format!("nothing between {from} and {to} in {text}").into())
}
