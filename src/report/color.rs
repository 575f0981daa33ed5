//! Decides whether output has colour, and colours lines. It colours finished lines by the signs at their beginning. So colour
//! says nothing that the words do not say.

use anstream::ColorChoice;

use crate::secret::Shown;

const BOLD: &str = "\x1b[1m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const CYAN: &str = "\x1b[36m";
const PLAIN: &str = "\x1b[0m";

/// Every escape sequence that this program writes.
#[cfg(test)]
pub(super) const ALL: [&str; 6] = [BOLD, RED, GREEN, YELLOW, CYAN, PLAIN];

/// Decides whether the whole program uses colour. `Auto`: on terminals, unless `NO_COLOR` is set or `TERM` is `dumb`.
pub fn choose(choice: ColorChoice) {
    choice.write_global();
}

/// How a line begins, its colour, and whether the colour is for the whole line.
const SIGNS: &[(&str, &str, bool)] = &[
    ("✔", GREEN, false),
    ("✗", RED, false),
    ("error:", RED, false),
    ("warning:", YELLOW, false),
    ("  ✗", RED, false),
    ("  ?", YELLOW, false),
    ("      hint:", CYAN, false),
    ("      - ", RED, true),
    ("      + ", GREEN, true),
];

/// Returns the text with colour. The output stream removes the colour again where none is wanted.
pub fn paint(text: &Shown) -> String {
    text.as_str().split('\n').map(line).collect::<Vec<_>>().join("\n")
}

fn line(line: &str) -> String {
    let signed =
        SIGNS.iter().find_map(|(sign, color, whole)| Some((sign, line.strip_prefix(sign)?, color, whole)));
    match signed {
        Some((sign, rest, color, true)) => format!("{color}{sign}{rest}{PLAIN}"),
        Some((sign, rest, color, false)) => format!("{color}{sign}{PLAIN}{rest}"),
        None => match line.split_once(" — ").filter(|(before, _)| !before.starts_with(' ')) {
            Some((before, after)) => format!("{BOLD}{before}{PLAIN} — {after}"),
            None => line.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;

    use super::*;

    #[test]
    fn colours_do_not_change_the_text() {
        let lines = "w1  swap — the kubelet refuses\n  ✗ swap is off\n      - /swap.img\n      + none\n\
            \n✔ all is well\n✗ w1  no\n      hint: turn it off\nplain";
        let painted = paint(&Shown::of(lines));
        assert_eq!(strip_str(&painted).to_string(), lines);
        assert_eq!(painted.matches(PLAIN).count(), 7, "{painted:?}");
    }

    #[test]
    fn machine_text_cannot_move_the_cursor() {
        let said = Shown::of("w1      \x1b[2Jgone\x1b[31m");
        assert_eq!(paint(&said), "w1      \\u{1b}[2Jgone\\u{1b}[31m");
    }
}
