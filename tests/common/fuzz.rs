//! Texts that are nearly right, from a seed: the same ones in each run of a test, and others where it runs for longer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// How long each loop runs, in seconds, where it is to run for longer than its usual number of cases.
const SECONDS: &str = "IRONSTRAP_FUZZ_SECONDS";

/// What breaks readers: ends, quotes, controls, other scripts, numbers beyond all bounds.
const NASTY: [&str; 40] = [
    "",
    " ",
    "\t",
    "\n",
    "\r\n",
    "\0",
    "\u{1b}[2J",
    "\u{feff}",
    "\u{202e}",
    "é",
    "語",
    "🦀",
    "'",
    "\"",
    "`",
    "$(x)",
    "\\",
    "|1|",
    "|",
    "!",
    "*",
    "?",
    "[",
    "]",
    "[1-",
    "-1]",
    "{",
    "}",
    "#",
    "@revoked",
    "@cert-authority",
    "NaN",
    "inf",
    "-0",
    "1e999",
    "0000000000000000000000000",
    "18446744073709551616",
    "99999999999999999999999999999999999999999",
    "9223372036854775807Ei",
    "1E2147483647",
];

/// xorshift64*
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub fn one_of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }

    /// One of the seeds after a few changes. It may not be UTF-8 any more.
    pub fn mutated(&mut self, seeds: &[&[u8]]) -> Vec<u8> {
        let mut text = self.one_of(seeds).to_vec();
        for _ in 0..=self.below(6) {
            let (from, to) = (self.below(text.len() + 1), self.below(text.len() + 1));
            let (from, to) = (from.min(to), from.max(to));
            match self.below(8) {
                0 => drop(text.drain(from..to)),
                1 => {
                    let piece = text[from..to].to_vec();
                    let at = self.below(text.len() + 1);
                    text.splice(at..at, piece);
                }
                2 if !text.is_empty() => {
                    let at = self.below(text.len());
                    text[at] = self.next() as u8;
                }
                3 => {
                    let other = self.one_of(seeds);
                    let cut = self.below(other.len() + 1);
                    text.truncate(from);
                    text.extend_from_slice(&other[cut..]);
                }
                4 => {
                    let digits = "9".repeat(self.below(100));
                    text.splice(from..from, digits.into_bytes());
                }
                _ => {
                    let nasty = self.one_of(&NASTY);
                    text.splice(from..to.min(from + self.below(4)), nasty.bytes());
                }
            }
            // Copies of copies are no more of a test, and slower.
            text.truncate(64 << 10);
        }
        text
    }

    /// The same as text.
    pub fn text(&mut self, seeds: &[&str]) -> String {
        let seeds: Vec<&[u8]> = seeds.iter().map(|seed| seed.as_bytes()).collect();
        String::from_utf8_lossy(&self.mutated(&seeds)).into_owned()
    }
}

/// Does it so often, or for as long as the environment says. A case that panics is told with what it was; `case` gets the
/// text in the form of its maker.
pub fn each<T: std::fmt::Debug>(cases: usize, mut make: impl FnMut(&mut Random) -> T, case: impl Fn(&T)) {
    let seconds = std::env::var(SECONDS).ok().and_then(|text| text.parse().ok()).map(Duration::from_secs);
    let (since, mut random, mut done) = (Instant::now(), Random::new(0x1705_1996), 0);
    while seconds.map_or(done < cases, |seconds| since.elapsed() < seconds) {
        let made = make(&mut random);
        let began = Instant::now();
        if catch_unwind(AssertUnwindSafe(|| case(&made))).is_err() {
            panic!("case {done}: {made:?}");
        }
        // On a busy machine, a case of some milliseconds takes many times that.
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "case {done} took {:?}: {made:?}",
            began.elapsed()
        );
        done += 1;
    }
    assert!(done > 0);
}
