//! Makes text safe to show on a terminal: characters that move the cursor, change the terminal's state or reorder what
//! is read become visible escapes.

use std::borrow::Cow;

/// Whether this character is unsafe in output, because a terminal or a reader takes it for more than text.
///
/// Newline and tab are allowed. All other control characters are forbidden (C0, DEL and C1, where U+009B begins
/// a sequence as ESC [ does). The characters that change the direction of text ("Trojan Source",
/// CVE-2021-42574) or break lines are forbidden too, and so are invisible ones.
pub fn is_forbidden(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        '\u{2028}' | '\u{2029}' => true,
        c => c.is_control() || INVISIBLE.iter().any(|(first, last)| (*first..=*last).contains(&c)),
    }
}

/// Characters of the category Cf, and those with the property Default_Ignorable_Code_Point (Unicode 16: UnicodeData.txt,
/// DerivedCoreProperties.txt).
const INVISIBLE: [(char, char); 27] = [
    ('\u{ad}', '\u{ad}'),
    ('\u{34f}', '\u{34f}'),
    ('\u{600}', '\u{605}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{6dd}', '\u{6dd}'),
    ('\u{70f}', '\u{70f}'),
    ('\u{890}', '\u{891}'),
    ('\u{8e2}', '\u{8e2}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{202a}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{fe00}', '\u{fe0f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{fff0}', '\u{fffb}'),
    ('\u{110bd}', '\u{110bd}'),
    ('\u{110cd}', '\u{110cd}'),
    ('\u{13430}', '\u{1343f}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0000}', '\u{e0fff}'),
    // These are in neither set, but blank: a Braille pattern without a dot, and a filler of Khitan script.
    ('\u{2800}', '\u{2800}'),
    ('\u{16fe4}', '\u{16fe4}'),
];

/// The text with a visible escape for each forbidden character, such as `\u{1b}` for an escape character.
/// Cleaning twice changes nothing.
pub fn clean(text: &str) -> Cow<'_, str> {
    replaced(text, |c| format!("\\u{{{:x}}}", u32::from(c)))
}

/// Replaces the forbidden characters in JSON that a serializer wrote. JSON itself allows them. The result has
/// JSON's own escapes for them, so the document says the same as before.
pub fn clean_json(json: &str) -> Cow<'_, str> {
    // A serializer writes none of them outside of strings. JSON has two escapes for a character above U+FFFF.
    let escape = |unit: &u16| format!("\\u{unit:04x}");
    replaced(json, |c| c.encode_utf16(&mut [0; 2]).iter().map(escape).collect())
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
    fn only_control_and_invisible_characters_are_escaped() {
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
            (
                "\u{200b}hi\u{ad}nt\u{2060}\u{feff}\u{fe0f}\u{e0041}",
                "\\u{200b}hi\\u{ad}nt\\u{2060}\\u{feff}\\u{fe0f}\\u{e0041}",
            ),
        ] {
            assert_eq!(clean(text), cleaned);
            assert_eq!(clean(cleaned), cleaned);
        }
    }

    #[test]
    fn cleaned_json_stays_valid_and_keeps_its_meaning() {
        let text = "\x1b[2J\u{9b}\u{202e}\u{200b}\u{e0041}\u{7f}\r\n\t\"\\";
        let json = serde_json::to_string(text).unwrap();
        let cleaned = clean_json(&json);
        assert!(!cleaned.contains(is_forbidden), "{cleaned:?}");
        assert_eq!(serde_json::from_str::<String>(&cleaned).unwrap(), text);
    }
}
