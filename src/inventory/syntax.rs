//! What is no TOML: the parser's words about it, without those that only repeat the first slip.

use toml::de::Error;

use super::mistake::{Mistakes, Span};

/// One slip makes the parser stumble again and again; the first few are the ones that tell.
const MOST: usize = 3;

/// Reports the first mistakes of syntax.
pub fn report(errors: &[Error], text: &str, mistakes: &mut Mistakes) {
    let end = text.len();
    let mut errors: Vec<(Span, &str)> =
        errors.iter().map(|error| (error.span().unwrap_or(end..end), error.message())).collect();
    errors.sort_by_key(|(at, _)| at.start);
    errors.dedup_by(|(at, says), (first, first_says)| {
        let between = text.get(first.start..at.start).unwrap_or_default();
        let same_line = !between.contains('\n');
        // A table that is there twice has fields that are there twice.
        let same_table = *says == TWICE && *first_says == TWICE && !between.contains("\n[");
        same_line || same_table
    });
    for (at, says) in errors.into_iter().take(MOST) {
        let says = says.trim_end_matches(", expected nothing");
        let bare = ["invalid float", "invalid integer", "invalid datetime", "string values must be quoted"];
        match says {
            TWICE => {
                let what = text.get(at.clone()).unwrap_or_default();
                mistakes.add(&at, format!("`{what}` is there twice: here, and further up"));
            }
            _ if bare.iter().any(|start| says.starts_with(start)) => {
                mistakes.add_help(&at, says, "text goes in quotes: \"1.36.3\", \"198.18.0.11\"");
            }
            _ => mistakes.add(&at, says),
        }
    }
}

const TWICE: &str = "duplicate key";
