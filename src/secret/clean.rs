//! Makes text safe to show on a terminal: characters that move the cursor, change the terminal's state or reorder what
//! is read become visible escapes.

use std::borrow::Cow;

/// Whether a terminal, or the reader's eye, takes this character for more than text.
///
/// Newline and tab stay. All other control characters go (C0, DEL and C1, where U+009B begins a sequence as ESC [ does), and
/// so do the characters that change the direction of text ("Trojan Source", CVE-2021-42574) or break lines.
pub fn is_forbidden(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}' => true,
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        c => c.is_control(),
    }
}

/// The text with `\u{1b}` for an escape character, and likewise for every forbidden one. Cleaning twice changes nothing.
pub fn clean(text: &str) -> Cow<'_, str> {
    replaced(text, |c| format!("\\u{{{:x}}}", u32::from(c)))
}

/// JSON that a serializer wrote, with the forbidden characters that JSON itself allows as JSON's own escapes. The document
/// says the same as before.
pub fn clean_json(json: &str) -> Cow<'_, str> {
    // Outside of strings a serializer writes none, and those forbidden are all below U+10000.
    replaced(json, |c| format!("\\u{:04x}", u32::from(c)))
}

fn replaced(text: &str, with: impl Fn(char) -> String) -> Cow<'_, str> {
    if !text.contains(is_forbidden) {
        return text.into();
    }
    let piece = |c: char| if is_forbidden(c) { with(c) } else { c.to_string() };
    text.chars().map(piece).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_a_cursor_becomes_visible_and_the_rest_stays() {
        for (text, cleaned) in [
            ("ready\tyes\n", "ready\tyes\n"),
            ("größe – ✔ 日本", "größe – ✔ 日本"),
            ("\x1b]0;title\x07", "\\u{1b}]0;title\\u{7}"),
            ("w1  bad\rw1  ok ", "w1  bad\\u{d}w1  ok "),
            ("a\u{9b}2Jb\u{7f}", "a\\u{9b}2Jb\\u{7f}"),
            (
                "safe\u{202e}evil\u{2066}\u{200f}\u{61c}\u{2028}",
                "safe\\u{202e}evil\\u{2066}\\u{200f}\\u{61c}\\u{2028}",
            ),
        ] {
            assert_eq!(clean(text), cleaned);
            assert_eq!(clean(cleaned), cleaned);
        }
    }

    #[test]
    fn json_stays_valid_and_says_the_same() {
        let text = "\x1b[2J\u{9b}\u{202e}\u{7f}\r\n\t\"\\";
        let json = serde_json::to_string(text).unwrap();
        let cleaned = clean_json(&json);
        assert!(!cleaned.contains(is_forbidden), "{cleaned:?}");
        assert_eq!(serde_json::from_str::<String>(&cleaned).unwrap(), text);
    }
}
