//! Words of events and of what is searched for.
//!
//! Pure. The same text has the same words here and there, or nothing is found.
//! A word is a run of letters and digits in lower case; where a script writes
//! without spaces each character is one.

use std::collections::BTreeSet;

use causeway_room::Pdu;
use serde_json::Value;

/// Characters of a word that count.
const WORD_CHARS_MAX: usize = 32;

/// Different words of one event, or of one search, that count.
pub const WORDS_MAX: usize = 256;

/// What is searched in an event ("Server Side Search"), if anything is.
pub fn searched_text(pdu: &Pdu) -> Option<String> {
    let content = pdu.content_object();
    let text = |field: &str| content.get(field).and_then(Value::as_str).map(str::to_owned);
    match (pdu.kind_text(), pdu.state_key()) {
        ("m.room.message", None) => text("body"),
        ("m.room.name", Some("")) => text("name"),
        ("m.room.topic", Some("")) => {
            let parts =
                content.get("m.topic").and_then(|topic| topic.get("m.text")).and_then(Value::as_array);
            let is_plain = |part: &&Value| {
                part.get("mimetype").is_none_or(|mimetype| mimetype.as_str() == Some("text/plain"))
            };
            let plain = parts.and_then(|parts| parts.iter().find(is_plain));
            let plain = plain.and_then(|part| part.get("body")).and_then(Value::as_str);
            match (text("topic"), plain) {
                (Some(topic), Some(plain)) if topic != plain => Some(format!("{topic}\n{plain}")),
                (Some(topic), _) => Some(topic),
                (None, plain) => plain.map(str::to_owned),
            }
        }
        _ => None,
    }
}

/// The different words of a text.
pub fn words(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    each_word(text, |word| {
        if !found.contains(word) {
            found.insert(word.to_owned());
        }
        found.len() < WORDS_MAX
    });
    found
}

/// How closely a text matches: the part of its words that is searched for,
/// and as much again if it holds what is searched for as it stands.
pub fn rank(text: &str, term: &str, wanted: &BTreeSet<String>) -> f64 {
    let (mut all, mut hits) = (0_u32, 0_u32);
    each_word(text, |word| {
        all = all.saturating_add(1);
        hits += u32::from(wanted.contains(word));
        true
    });
    let whole = text.to_lowercase().contains(&term.trim().to_lowercase());
    let part = f64::from(hits) / f64::from(all.max(1));
    if whole { part + 1.0 } else { part }
}

/// Calls `take` with each word until it wants no more.
fn each_word(text: &str, mut take: impl FnMut(&str) -> bool) {
    let mut word = String::new();
    let mut length = 0;
    for character in text.chars().flat_map(char::to_lowercase).chain([' ']) {
        let stands_alone = stands_alone(character);
        if character.is_alphanumeric() && !stands_alone {
            if length < WORD_CHARS_MAX {
                word.push(character);
            }
            length += 1;
            continue;
        }
        if !word.is_empty() && !take(&word) {
            return;
        }
        word.clear();
        length = 0;
        if stands_alone && !take(character.encode_utf8(&mut [0; 4])) {
            return;
        }
    }
}

/// Han, kana, Thai, Lao, Khmer, Myanmar: scripts without spaces between words.
const fn stands_alone(character: char) -> bool {
    matches!(character,
        '\u{0E01}'..='\u{0EFF}' | '\u{1000}'..='\u{109F}' | '\u{1780}'..='\u{17FF}'
        | '\u{3041}'..='\u{30FF}' | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}'
        | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..='\u{3FFFF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<String> {
        words(text).into_iter().collect()
    }

    #[test]
    fn words_are_runs_of_letters_and_digits() {
        assert_eq!(list("Martians, and MEN-2!"), ["2", "and", "martians", "men"]);
        assert_eq!(list("Größe ÉTÉ"), ["größe", "été"]);
        assert_eq!(list("東京 tower"), ["tower", "京", "東"]);
        assert!(list("… --").is_empty());
        assert_eq!(list(&"x".repeat(100)), ["x".repeat(WORD_CHARS_MAX)]);
        let many: Vec<String> = (0..1_000).map(|n| format!("w{n}")).collect();
        assert_eq!(words(&many.join(" ")).len(), WORDS_MAX);
    }

    #[test]
    fn what_matches_more_closely_ranks_higher() {
        let wanted = words("green men");
        let rank = |text| rank(text, "green men", &wanted);
        assert!(rank("green men") > rank("green men from far away"));
        assert!(rank("green men from far away") > rank("men in green suits"));
    }
}
