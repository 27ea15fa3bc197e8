//! How people answer a conflict notice: a reaction 1️⃣ 2️⃣ …, or a reply `keep 1`.
//!
//! Pure reading of what was sent; whether the choice still means anything is
//! decided in [`super::settlement`].

/// Siblings that can be numbered; protocol bound on siblings of one item.
pub const NUMBERED_MAX: usize = 16;

/// The longest reply that is read as a choice; longer ones are conversation.
const REPLY_LENGTH_MAX: usize = 4_096;

const KEYCAP: char = '\u{20E3}';
const EMOJI_VARIATION: char = '\u{FE0F}';

/// The reaction that chooses the sibling numbered `number` (from 1).
pub fn reaction(number: usize) -> String {
    if number == 10 {
        return "🔟".to_owned();
    }
    // Beyond ten there is no such emoji; the digits themselves are a valid reaction key.
    if number > 10 { number.to_string() } else { format!("{number}{EMOJI_VARIATION}{KEYCAP}") }
}

/// The index (from 0) that a reaction chooses. Clients differ in the variation
/// selector, so it does not count.
pub fn of_reaction(key: &str) -> Option<usize> {
    if key.chars().count() > 4 {
        return None;
    }
    if key.trim_end_matches(EMOJI_VARIATION) == "🔟" {
        return Some(9);
    }
    let digits: String = key.chars().filter(|c| *c != EMOJI_VARIATION && *c != KEYCAP).collect();
    numbered(&digits)
}

/// The index (from 0) that a reply chooses: `keep 2`, in any case, after the
/// quoted fallback that old clients put in front.
pub fn of_reply(body: &str) -> Option<usize> {
    if body.len() > REPLY_LENGTH_MAX {
        return None;
    }
    let said = body.lines().find(|line| !line.starts_with('>') && !line.trim().is_empty())?;
    let mut words = said.split_whitespace();
    if !words.next()?.eq_ignore_ascii_case("keep") {
        return None;
    }
    let number = words.next()?.trim_end_matches('.');
    if words.next().is_some() {
        return None;
    }
    of_reaction(number)
}

fn numbered(digits: &str) -> Option<usize> {
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: usize = digits.parse().ok()?;
    (1..=NUMBERED_MAX).contains(&number).then(|| number - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_read_back() {
        for number in 1..=NUMBERED_MAX {
            assert_eq!(of_reaction(&reaction(number)), Some(number - 1), "{number}");
            assert_eq!(of_reply(&format!("keep {number}")), Some(number - 1));
        }
        assert_eq!(of_reaction("2\u{20E3}"), Some(1), "without the variation selector");
        assert_eq!(of_reply("> <@a:b> two changes\n> 1 …\n\nKeep 2️⃣"), Some(1));
    }

    #[test]
    fn conversation_is_no_choice() {
        for key in ["👍", "0", "17", "", "-1", "+1", "1 ", "99999999999999999999999", "١"] {
            assert_eq!(of_reaction(key), None, "{key}");
        }
        for body in ["", "keep", "keep it", "I'd keep 1", "keep 1 or 2", "> keep 1", "keep 0"] {
            assert_eq!(of_reply(body), None, "{body}");
        }
    }
}
