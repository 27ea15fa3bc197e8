//! Whether all servers hold and show the same, and all that was acknowledged.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::Duration,
};

use reqwest::Method;
use serde_json::Value;
use tokio::time::Instant;

use super::{
    Member,
    writers::{Ledger, Promised, message},
};
use crate::{
    client::segment,
    result::{Failure, Result, ensure},
    user::text,
    wait,
};

/// How long the servers may take, once nobody writes any more.
pub const CONVERGED_WITHIN: Duration = Duration::from_mins(1);
/// How long they are watched, and how long for each thing at least.
const PATIENCE: Duration = Duration::from_mins(5);
const PATIENCE_LEAST: Duration = Duration::from_secs(10);
/// Events in one answer.
const PAGE: usize = 500;

/// Between two looks: they cost the servers what these need to catch up.
const PAUSE: Duration = Duration::from_millis(250);

/// What came of it.
#[derive(Debug)]
pub struct Verdict {
    /// Until each thing was as it should be, in the order in which it is looked for; or why not.
    pub found: Vec<(String, Result<Duration>)>,
    /// How many of these are about servers of ours alone.
    pub ours: usize,
}

impl Verdict {
    /// How long it took until all was as it should be.
    pub fn converged(&self) -> Option<Duration> {
        latest(&self.found)
    }

    /// How long it took until it was on the servers of ours, if there are others.
    pub fn ours_converged(&self) -> Option<Duration> {
        latest(self.found.get(..self.ours).filter(|found| !found.is_empty())?)
    }
}

fn latest(found: &[(String, Result<Duration>)]) -> Option<Duration> {
    let times: Option<Vec<Duration>> = found.iter().map(|(_, found)| found.as_ref().ok().copied()).collect();
    times?.into_iter().max()
}

/// Waits until all is as it should be, and says since when: first at servers of ours, where a
/// Synapse is among them, so that what is told of them is not that it takes longer.
pub async fn agreement(members: &[Member], room: &str, ledger: &Ledger) -> Verdict {
    let ours: Vec<&Member> = members.iter().filter(|member| member.takes_part).collect();
    let all: Vec<&Member> = members.iter().collect();
    let promised = ledger.lock().clone();
    let mut looking = Looking { room, promised, began: Instant::now(), found: Vec::new() };
    if ours.len() < all.len() {
        looking.through(&ours, &format!("the {} Causeways", ours.len())).await;
    }
    let ours = looking.found.len();
    looking.through(&all, &format!("all {} servers", all.len())).await;
    looking
        .note("still the same room state everywhere", async |looking| same_state(&all, looking.room).await)
        .await;
    Verdict { found: looking.found, ours }
}

/// Looks for one thing after the other.
struct Looking<'a> {
    room: &'a str,
    promised: Promised,
    began: Instant,
    found: Vec<(String, Result<Duration>)>,
}

impl Looking<'_> {
    async fn through(&mut self, members: &[&Member], whose: &str) {
        let state = async |looking: &Self| same_state(members, looking.room).await;
        self.note(&format!("the same room state on {whose}"), state).await;
        if members.iter().all(|member| member.takes_part) {
            let items = async |looking: &Self| same_items(members, looking.room, &looking.promised).await;
            self.note(&format!("every item change on {whose}"), items).await;
        }
        let messages = async |looking: &Self| all_messages(members, looking.room, &looking.promised).await;
        self.note(&format!("every message on {whose}, once"), messages).await;
        // What has its place keeps it: there is nothing to wait for.
        let order = async |looking: &Self| in_order(members, looking.room, &looking.promised).await;
        self.note_within(Duration::ZERO, &format!("each writer's in order on {whose}"), order).await;
    }

    async fn note(&mut self, what: &str, look: impl AsyncFn(&Self) -> Result<Option<()>>) {
        let patience = PATIENCE.saturating_sub(self.began.elapsed()).max(PATIENCE_LEAST);
        self.note_within(patience, what, look).await;
    }

    async fn note_within(
        &mut self,
        patience: Duration,
        what: &str,
        look: impl AsyncFn(&Self) -> Result<Option<()>>,
    ) {
        let waited = wait::until_looking_each(PAUSE, patience, what, async || look(self).await).await;
        self.found.push((what.to_owned(), waited.map(|()| self.began.elapsed())));
    }
}

async fn same_state(members: &[&Member], room: &str) -> Result<Option<()>> {
    let mut first: Option<BTreeMap<(String, String), String>> = None;
    for member in members {
        let path = format!("/_matrix/client/v3/rooms/{}/state", segment(room));
        let state = member.user.call(Method::GET, &path, None).await?;
        let entry =
            |event: &Value| Ok(((text(event, "type")?, text(event, "state_key")?), text(event, "event_id")?));
        let state = state.as_array().into_iter().flatten().map(entry).collect::<Result<BTreeMap<_, _>>>()?;
        let Some(first) = &first else {
            first = Some(state);
            continue;
        };
        let keys: BTreeSet<_> = first.keys().chain(state.keys()).collect();
        let other: Vec<_> = keys.into_iter().filter(|key| first.get(*key) != state.get(*key)).collect();
        ensure(other.is_empty(), || {
            format!("{} sees other state than {}: {other:?}", member.user.id, members[0].user.id)
        })?;
    }
    Ok(Some(()))
}

/// The changes of all items by id, with the marks of their values.
async fn changes(member: &Member, room: &str) -> Result<BTreeMap<String, String>> {
    let mut changes = BTreeMap::new();
    for item in member.user.items(room).await? {
        let base = format!(
            "/_matrix/client/unstable/org.causeway/rooms/{}/items/{}/history?limit={PAGE}",
            segment(room),
            segment(&item.key)
        );
        let mut from = String::new();
        loop {
            let page = member.user.call(Method::GET, &format!("{base}{from}"), None).await?;
            for change in page["changes"].as_array().into_iter().flatten() {
                let mark = change["value"]["mark"].as_str().unwrap_or_default();
                changes.insert(text(change, "id")?, mark.to_owned());
            }
            let Some(next) = page["next"].as_str() else { break };
            from = format!("&from={}", segment(next));
        }
    }
    Ok(changes)
}

async fn same_items(members: &[&Member], room: &str, promised: &Promised) -> Result<Option<()>> {
    let mut first: Option<BTreeMap<String, String>> = None;
    for member in members {
        let held = changes(member, room).await?;
        let marks: BTreeSet<&str> = held.values().map(String::as_str).collect();
        let lost: Vec<&String> =
            promised.items.iter().flatten().filter(|mark| !marks.contains(mark.as_str())).collect();
        ensure(lost.is_empty(), || {
            let some = &lost[..lost.len().min(5)];
            format!("{} lacks {} item changes, as {some:?}", member.user.id, lost.len())
        })?;
        let first = first.get_or_insert_with(|| held.clone());
        ensure(*first == held, || {
            format!("{} holds {} changes, and another {}", member.user.id, held.len(), first.len())
        })?;
    }
    Ok(Some(()))
}

/// The writers' messages that a user can read, oldest first.
async fn history(member: &Member, room: &str) -> Result<Vec<String>> {
    let (mut texts, mut from) = (Vec::new(), String::new());
    loop {
        let path = format!("/_matrix/client/v3/rooms/{}/messages?dir=b&limit={PAGE}{from}", segment(room));
        let answer = member.user.call(Method::GET, &path, None).await?;
        let page = answer["chunk"].as_array().cloned().unwrap_or_default();
        texts.extend(page.iter().filter_map(message).map(str::to_owned));
        let Some(end) = answer["end"].as_str() else { break };
        from = format!("&from={}", segment(end));
    }
    texts.reverse();
    Ok(texts)
}

async fn all_messages(members: &[&Member], room: &str, promised: &Promised) -> Result<Option<()>> {
    for member in members {
        let shown = history(member, room).await?;
        complete(&shown, &promised.messages)
            .map_err(|error| Failure::new(format!("{} is shown otherwise: {error}", member.user.id)))?;
    }
    Ok(Some(()))
}

async fn in_order(members: &[&Member], room: &str, promised: &Promised) -> Result<Option<()>> {
    let mut wrong = Vec::new();
    for member in members {
        let found = misplaced(&history(member, room).await?, &promised.messages);
        if let Some(first) = found.first() {
            wrong.push(format!("{} is shown {} otherwise, as {first}", member.user.id, found.len()));
        }
    }
    ensure(wrong.is_empty(), || wrong.join("; "))?;
    Ok(Some(()))
}

/// The place of each message in a timeline.
fn places(shown: &[String]) -> HashMap<&str, usize> {
    shown.iter().enumerate().map(|(place, text)| (text.as_str(), place)).collect()
}

/// Whether a timeline has each message once.
///
/// # Errors
/// Which message is lacking or doubled.
pub fn complete(shown: &[String], messages: &[Vec<String>]) -> Result<()> {
    let mut seen = HashSet::new();
    for text in shown {
        ensure(seen.insert(text.as_str()), || format!("{text:?} twice"))?;
    }
    let said: Vec<&String> = messages.iter().flatten().collect();
    let lost: Vec<_> = said.iter().filter(|text| !seen.contains(text.as_str())).collect();
    ensure(lost.is_empty(), || {
        let some = &lost[..lost.len().min(5)];
        format!("{} of {} messages are lacking, as {some:?}", lost.len(), said.len())
    })
}

/// Messages of a timeline that stand before the one that their writer sent before: he had had
/// that acknowledged, whatever others did.
pub fn misplaced(shown: &[String], messages: &[Vec<String>]) -> Vec<String> {
    let places = places(shown);
    let mut wrong = Vec::new();
    for pair in messages.iter().flat_map(|messages| messages.windows(2)) {
        let [earlier, later] = [&pair[0], &pair[1]].map(|text| places.get(text.as_str()));
        if let (Some(earlier), Some(later)) = (earlier, later)
            && earlier > later
        {
            wrong.push(format!("{:?} before {:?}", pair[1], pair[0]));
        }
    }
    wrong
}
