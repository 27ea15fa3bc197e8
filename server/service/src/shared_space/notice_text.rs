//! What a conflict notice says: the words for people, and the content that
//! programs read.
//!
//! Pure. A notice is an `m.text` (an `m.notice` notifies nobody) with
//! `m.mentions` of the authors. In an encrypted room it names neither key nor
//! value, because the notice itself is in clear.

use std::fmt::Write as _;

use causeway_shared_space::{ItemKey, Sibling};
use jiff::Timestamp;
use ruma::OwnedUserId;
use serde_json::{Value, json};

use super::{choice, read::Written};

/// Characters of a value that a notice shows.
const EXCERPT_CHARS_MAX: usize = 160;
/// Items that a message about many names to people.
const NAMED_MAX: usize = 10;

/// One sibling as a notice shows it.
#[derive(Clone, Debug)]
pub struct Told {
    /// The change's id.
    pub id: String,
    /// Who wrote it.
    pub author: OwnedUserId,
    /// When, by the author's server (ms since the epoch).
    pub origin_server_ts: u64,
    /// What was written.
    pub written: Written,
}

/// A conflict that is to be told now.
#[derive(Clone)]
pub(super) struct Telling {
    pub key: ItemKey,
    pub id: String,
    pub siblings: Vec<Sibling>,
    pub told: Vec<Told>,
    /// How often it could not be sent.
    pub attempts: u32,
}

/// The content of a notice about one item.
pub fn notice(conflict: &str, key: &str, siblings: &[Told], encrypted: bool) -> Value {
    let mut body = if encrypted {
        "Changes to an item of this room's shared space did not see each other. All of them are kept.\n"
            .to_owned()
    } else {
        format!("Changes to “{}” did not see each other. All of them are kept:\n", excerpt(key))
    };
    for (index, told) in siblings.iter().enumerate() {
        let what = match &told.written {
            _ if encrypted => String::new(),
            Written::Put(value) => format!(": {}", excerpt(&value.to_string())),
            Written::Deleted => ": deleted it".to_owned(),
            Written::Erased => ": wrote what has been erased".to_owned(),
            Written::Missing => ": wrote what this server does not have yet".to_owned(),
        };
        let (mark, when) = (choice::reaction(index + 1), moment(told.origin_server_ts));
        write_to(&mut body, format_args!("{mark} {}, {when}{what}\n", told.author));
    }
    let count = siblings.len();
    write_to(
        &mut body,
        format_args!("To keep one, react with its number (1–{count}){}.", by_reply(encrypted)),
    );
    json!({
        "msgtype": "m.text",
        "body": body,
        "m.mentions": { "user_ids": authors(siblings) },
        "org.causeway.conflict": listed(conflict, key, siblings, encrypted),
    })
}

/// The content of a message that stands for many new conflicts. `authors` are
/// those of all that is listed; a number means what one of them wrote.
pub(super) fn summary(conflicts: &[Telling], authors: &[OwnedUserId], encrypted: bool) -> Value {
    let count = conflicts.len();
    let mut body = format!("{count} items have changes that did not see each other. All of them are kept");
    if !encrypted {
        let named: Vec<_> = conflicts
            .iter()
            .take(NAMED_MAX)
            .map(|telling| format!("“{}”", excerpt(telling.key.as_str())))
            .collect();
        let more = if count > named.len() { ", …" } else { "" };
        write_to(&mut body, format_args!(": {}{more}", named.join(", ")));
    }
    body.push_str(".\n");
    let numbered = &authors[..authors.len().min(choice::NUMBERED_MAX)];
    for (index, author) in numbered.iter().enumerate() {
        write_to(&mut body, format_args!("{} {author}\n", choice::reaction(index + 1)));
    }
    write_to(
        &mut body,
        format_args!(
            "To keep in all of these items what one of them wrote, react with the number (1–{}){}. To settle \
             a single item, write it again.",
            numbered.len(),
            by_reply(encrypted)
        ),
    );
    json!({
        "msgtype": "m.text",
        "body": body,
        "m.mentions": { "user_ids": authors },
        "org.causeway.conflicts": conflicts.iter().map(|telling| {
            listed(&telling.id, telling.key.as_str(), &telling.told, encrypted)
        }).collect::<Vec<_>>(),
    })
}

/// The other way to settle. In an encrypted room a reply is encrypted, and says
/// nothing to a server; a reaction is in clear.
fn by_reply(encrypted: bool) -> &'static str {
    if encrypted { "" } else { ", or reply “keep 1”" }
}

/// One conflict as programs read it.
pub fn listed(conflict: &str, key: &str, siblings: &[Told], encrypted: bool) -> Value {
    json!({
        "id": conflict,
        "key": if encrypted { Value::Null } else { key.into() },
        "siblings": siblings.iter().map(|told| json!({
            "id": told.id, "author": told.author, "origin_server_ts": told.origin_server_ts,
        })).collect::<Vec<_>>(),
    })
}

/// The content that edits a notice to say how it ended.
pub fn edited(notice_id: &str, original: &Value, outcome: &str) -> Value {
    let told = original["body"].as_str().unwrap_or_default();
    let body = format!("{outcome}\n\n{told}");
    let mut new_content = json!({
        "msgtype": "m.text",
        "body": body,
        "m.mentions": original["m.mentions"],
    });
    // A long list is not repeated: with it twice the event could be too large.
    if let Some(listed) = original.get("org.causeway.conflict") {
        new_content["org.causeway.conflict"] = listed.clone();
    }
    json!({
        "msgtype": "m.text",
        "body": format!("* {body}"),
        // An edit that mentions nobody notifies nobody again.
        "m.mentions": {},
        "m.new_content": new_content,
        "m.relates_to": { "rel_type": "m.replace", "event_id": notice_id },
    })
}

/// The content of an answer to somebody whose choice came too late.
pub fn answer(to_event: &str, to_user: &str, said: &str) -> Value {
    json!({
        "msgtype": "m.text",
        "body": said,
        "m.mentions": { "user_ids": [to_user] },
        "m.relates_to": { "m.in_reply_to": { "event_id": to_event } },
    })
}

fn write_to(body: &mut String, text: std::fmt::Arguments<'_>) {
    body.write_fmt(text).expect("a String takes all that is written");
}

/// The authors, each once, in the order of their ids.
pub fn authors<'a>(siblings: impl IntoIterator<Item = &'a Told>) -> Vec<OwnedUserId> {
    let mut authors: Vec<_> = siblings.into_iter().map(|told| told.author.clone()).collect();
    authors.sort();
    authors.dedup();
    authors
}

/// Text of others, cut and on one line, so that it can't pose as ours.
fn excerpt(text: &str) -> String {
    let mut short: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(EXCERPT_CHARS_MAX).collect();
    if text.chars().nth(EXCERPT_CHARS_MAX).is_some() {
        short.push('…');
    }
    short
}

fn moment(ms: u64) -> String {
    i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).map_or_else(
        || "at an unknown time".to_owned(),
        |at| at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
    )
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    fn told(author: &ruma::UserId, written: Written) -> Told {
        Told { id: "aa".to_owned(), author: author.to_owned(), origin_server_ts: 1_700_000_000_000, written }
    }

    #[test]
    fn a_notice_says_what_who_when_and_how() {
        let siblings = [
            told(user_id!("@alice:a.example"), Written::Put(json!({"text": "one\ntwo"}))),
            told(user_id!("@bob:b.example"), Written::Deleted),
        ];
        let content = notice("c1", "plans/2026.md", &siblings, false);
        let body = content["body"].as_str().expect("a body");
        for part in [
            "plans/2026.md",
            "1️⃣ @alice:a.example, 2023-11-14 22:13:20 UTC: {",
            "2️⃣ @bob",
            "deleted it",
            "keep 1",
        ] {
            assert!(body.contains(part), "{part} in {body}");
        }
        assert_eq!(content["m.mentions"]["user_ids"], json!(["@alice:a.example", "@bob:b.example"]));
        assert_eq!(content["org.causeway.conflict"]["siblings"][1]["author"], "@bob:b.example");
    }

    #[test]
    fn an_encrypted_room_learns_neither_key_nor_value() {
        let siblings = [told(user_id!("@alice:a.example"), Written::Put(json!({"text": "secret"})))];
        let content = notice("c1", "hidden", &siblings, true).to_string();
        assert!(!content.contains("secret") && !content.contains("hidden"));
        // A reply would be encrypted, and the servers could not read it.
        assert!(content.contains("react with") && !content.contains("keep 1"));
        let telling = Telling {
            key: causeway_shared_space::ItemKey::new("hidden").expect("a key"),
            id: "c1".to_owned(),
            siblings: Vec::new(),
            told: siblings.to_vec(),
            attempts: 0,
        };
        let content = summary(&[telling], &authors(&siblings), true).to_string();
        assert!(!content.contains("hidden"));
        assert!(content.contains("react with") && !content.contains("keep 1"));
    }

    #[test]
    fn an_edit_points_to_the_notice_and_mentions_nobody() {
        let original = notice("c1", "k", &[told(user_id!("@alice:a.example"), Written::Deleted)], false);
        let content = edited("$notice", &original, "Settled by @bob:b.example: 1️⃣ is kept.");
        assert_eq!(content["m.relates_to"]["event_id"], "$notice");
        assert_eq!(content["m.mentions"], json!({}));
        assert!(content["m.new_content"]["body"].as_str().expect("a body").starts_with("Settled by @bob"));
    }
}
