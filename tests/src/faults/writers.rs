//! Clients that write all the time, and what they were promised.
//!
//! Each has one write under way. One that is not answered is repeated, a message under the
//! same transaction id, until it is answered: the server may be down, but not for ever.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{Member, Settings};
use crate::{
    client::{Answer, segment},
    dice::Dice,
    result::{Failure, Result},
    user::{ITEM, state_path, timeline},
};

/// The type of a piece of room state that all write.
pub const NOTE: &str = "org.example.note";
/// Items and notes that there are.
const KEYS: usize = 12;
/// A request that takes longer is repeated.
const PATIENCE: Duration = Duration::from_secs(15);
/// Until a write that was not answered is repeated.
const AGAIN_AFTER: Duration = Duration::from_millis(300);
/// How far a reader scrolls back.
const SCROLLED: usize = 500;
/// How often a client may be refused: by a server that does not know better yet, say.
const REFUSALS_MAX: usize = 3;
/// Between two looks at how far everybody is.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// What was acknowledged, by whom, and how far the readers came meanwhile.
#[derive(Debug)]
pub struct Ledger {
    /// When it began.
    pub started: Instant,
    promised: Mutex<Promised>,
}

/// See [`Ledger`].
#[derive(Clone, Debug, Default)]
pub struct Promised {
    /// Texts of the messages by server, in the order in which they were acknowledged.
    pub messages: Vec<Vec<String>>,
    /// Marks of the values that items were given, by server.
    pub items: Vec<Vec<String>>,
    /// Pieces of state that were written, by server.
    pub notes: Vec<usize>,
    /// Requests that had to be repeated, by server.
    pub repeated: Vec<usize>,
    /// Messages that a client at each server has been shown.
    read: Vec<BTreeSet<String>>,
    /// At some time, how many messages each server's client was not shown yet.
    pub behind: Vec<(Duration, Vec<usize>)>,
}

impl Ledger {
    /// An empty one for so many servers.
    pub fn new(started: Instant, servers: usize) -> Self {
        let promised = Promised {
            messages: vec![Vec::new(); servers],
            items: vec![Vec::new(); servers],
            notes: vec![0; servers],
            repeated: vec![0; servers],
            read: vec![BTreeSet::new(); servers],
            behind: Vec::new(),
        };
        Self { started, promised: Mutex::new(promised) }
    }

    /// What is in it.
    pub fn lock(&self) -> MutexGuard<'_, Promised> {
        self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how far behind everybody is.
    pub fn sample(&self) {
        let at = self.started.elapsed();
        let mut promised = self.lock();
        let said: usize = promised.messages.iter().map(Vec::len).sum();
        let behind = promised.read.iter().map(|read| said.saturating_sub(read.len())).collect();
        promised.behind.push((at, behind));
    }
}

/// A write, whoever repeats it.
enum Write {
    Message(String),
    /// As any client does.
    ItemState(String, String),
    /// Through the items' own API.
    Item(String, String),
    Note(String, String),
    Topic(String),
}

/// Lets all members write, and read, while `what` happens, and finish the writes that are under
/// way. The readers go on.
pub async fn write_during(
    members: &Arc<Vec<Member>>,
    room: &str,
    ledger: &Arc<Ledger>,
    settings: &Settings,
    what: impl Future<Output = Result<()>>,
) -> Result<JoinSet<()>> {
    let ended = Arc::new(AtomicBool::new(false));
    let (mut writing, mut reading) = (JoinSet::new(), JoinSet::new());
    for index in 0..members.len() {
        let all = (members.clone(), ledger.clone(), room.to_owned());
        let (settings, ended) = (settings.clone(), ended.clone());
        writing.spawn(async move {
            let (members, ledger, room) = all;
            let mut writer = Writer::new(index, &members[index], &room, &ledger, settings.seed);
            while !ended.load(Ordering::SeqCst) {
                writer.write().await?;
                sleep(Duration::from_millis(settings.pace_ms)).await;
            }
            Ok::<_, Failure>(())
        });
        let (members, ledger, room) = (members.clone(), ledger.clone(), room.to_owned());
        reading.spawn(async move {
            loop {
                read(index, &members[index], &room, &ledger).await;
            }
        });
    }
    let sampler = ledger.clone();
    reading.spawn(async move {
        loop {
            sampler.sample();
            sleep(SAMPLE_EVERY).await;
        }
    });
    let done = what.await;
    ended.store(true, Ordering::SeqCst);
    while let Some(written) = writing.join_next().await {
        written??;
    }
    done.map(|()| reading)
}

/// One answer of /sync, and what it shows.
async fn read(index: usize, member: &Member, room: &str, ledger: &Ledger) {
    let Ok(Ok(answer)) = timeout(PATIENCE, member.user.sync(5_000)).await else {
        return sleep(AGAIN_AFTER).await;
    };
    let mut shown = timeline(&answer, room);
    // As a client does that was shown only the end of what is new.
    if answer["rooms"]["join"][room]["timeline"]["limited"] == true {
        shown.extend(member.user.messages(room, SCROLLED).await.unwrap_or_default());
    }
    let texts = shown.iter().filter_map(message).map(str::to_owned);
    ledger.lock().read[index].extend(texts);
}

/// The text of one of the writers' messages.
pub fn message(event: &Value) -> Option<&str> {
    let body = event["content"]["body"].as_str().filter(|body| body.starts_with("writer"))?;
    (event["type"] == "m.room.message").then_some(body)
}

struct Writer<'a> {
    index: usize,
    member: &'a Member,
    room: &'a str,
    ledger: &'a Ledger,
    dice: Dice,
    number: usize,
}

impl<'a> Writer<'a> {
    fn new(index: usize, member: &'a Member, room: &'a str, ledger: &'a Ledger, seed: u64) -> Self {
        let dice = Dice::new(seed.wrapping_mul(31).wrapping_add(index as u64 + 1));
        Self { index, member, room, ledger, dice, number: 0 }
    }

    /// Writes something, and notes it when it is acknowledged.
    async fn write(&mut self) -> Result<()> {
        self.number += 1;
        let mark = format!("writer{} {}", self.index, self.number);
        let key = format!("key {}", self.dice.below(KEYS));
        let what = match self.dice.below(10) {
            0..6 => Write::Message(mark),
            6 => Write::Note(key, mark),
            7 if self.number.is_multiple_of(5) => Write::Topic(mark),
            8 if self.member.takes_part => Write::Item(key, mark),
            _ => Write::ItemState(key, mark),
        };
        let mut refusals = 0;
        loop {
            match timeout(PATIENCE, self.attempt(&what)).await {
                Ok(Ok(answer)) if answer.status == 200 => break,
                // The server's own troubles while it starts or ends.
                Ok(Ok(answer)) if answer.status >= 500 => {}
                Ok(Ok(answer)) if refusals < REFUSALS_MAX => {
                    eprintln!("{} was refused: {answer:?}", self.member.user.id);
                    refusals += 1;
                }
                Ok(Ok(answer)) => {
                    return Err(Failure::new(format!("{} is refused: {answer:?}", self.member.user.id)));
                }
                Ok(Err(_)) | Err(_) => {}
            }
            self.ledger.lock().repeated[self.index] += 1;
            sleep(AGAIN_AFTER).await;
        }
        self.note(what);
        Ok(())
    }

    async fn attempt(&self, what: &Write) -> Result<Answer> {
        let (user, room) = (&self.member.user, self.room);
        let put = async |kind: &str, key: &str, content: Value| {
            user.try_call(Method::PUT, &state_path(room, kind, key), Some(&content)).await
        };
        match what {
            Write::Message(mark) => {
                let (room, id) = (segment(room), self.number);
                let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{id}");
                user.try_call(Method::PUT, &path, Some(&json!({"msgtype": "m.text", "body": mark}))).await
            }
            Write::Note(key, mark) => put(NOTE, key, json!({"mark": mark})).await,
            Write::Topic(mark) => put("m.room.topic", "", json!({"topic": mark})).await,
            Write::ItemState(key, mark) => put(ITEM, key, json!({"mark": mark})).await,
            Write::Item(key, mark) => {
                let token = user.item(room, key).await?.map(|item| item.token);
                let mut body = json!({"value": {"mark": mark}});
                if let Some(token) = token {
                    body["token"] = json!(token);
                }
                user.try_write(room, key, &body).await
            }
        }
    }

    fn note(&self, what: Write) {
        let mut promised = self.ledger.lock();
        match what {
            Write::Message(mark) => promised.messages[self.index].push(mark),
            Write::Item(_, mark) | Write::ItemState(_, mark) => promised.items[self.index].push(mark),
            Write::Note(..) | Write::Topic(_) => promised.notes[self.index] += 1,
        }
    }
}
