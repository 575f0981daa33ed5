//! Random test cases that are nearly valid, and loops over them.
//!
//! Each round of a loop has a seed. `cargo test --test fuzz` runs the same rounds every time. `IRONSTRAP_FUZZ_SECONDS=600
//! cargo test --test fuzz NAME -- --nocapture` runs for ten minutes instead, with seeds that begin at the present time. A
//! failure prints its seed, and `IRONSTRAP_FUZZ_SEED=0x…` repeats that round.

#![allow(clippy::print_stderr)]

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const SECONDS: &str = "IRONSTRAP_FUZZ_SECONDS";
const SEED: &str = "IRONSTRAP_FUZZ_SEED";
/// The seed of the first round of `cargo test --test fuzz`.
const FIRST: u64 = 0x1705_1996;
/// Time limit for a round. Rounds take milliseconds, but many times longer on a busy machine.
const SLOWEST: Duration = Duration::from_secs(20);

/// Texts that break parsers: line ends, quotes, control characters, other alphabets, huge numbers, and markers of
/// formats.
const NASTY: [&str; 67] = [
    "",
    " ",
    "\t",
    "\n",
    "\r\n",
    "\0",
    "\u{1b}[2J",
    "\u{ff}",
    "\u{85}",
    "\u{2028}",
    "\u{feff}",
    "\u{202e}",
    "é",
    "語",
    "🦀",
    "'",
    "'''",
    "\"",
    "\"\"\"",
    "`",
    "$(x)",
    "\\",
    "|1|",
    "|",
    "!",
    "!!binary ",
    "*",
    "*a",
    "&a ",
    "?",
    "[",
    "]",
    "[[",
    "[1-",
    "-1]",
    "{",
    "}",
    "[]",
    "{}",
    "#",
    ": ",
    "- ",
    "= ",
    ".",
    ",",
    "null",
    "~",
    "true",
    "@revoked",
    "@cert-authority",
    "NaN",
    "inf",
    "-0",
    "0x",
    "1e999",
    "0000000000000000000000000",
    "18446744073709551616",
    "99999999999999999999999999999999999999999",
    "9223372036854775807Ei",
    "1E2147483647",
    "-----BEGIN CERTIFICATE-----\n",
    "-----END CERTIFICATE-----\n",
    "-----BEGIN EC PRIVATE KEY-----\n",
    "-----BEGIN PGP PUBLIC KEY BLOCK-----\n",
    "-----END PGP PUBLIC KEY BLOCK-----\n",
    "=AAAA\n",
    "name: demo",
];

/// xorshift64*
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        // Neighbouring seeds must not give similar numbers (splitmix64).
        let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Random((mixed ^ (mixed >> 31)).max(1))
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

    /// One to `most` of them, joined.
    pub fn several(&mut self, all: &[&str], most: usize) -> String {
        (0..=self.below(most)).map(|_| self.one_of(all)).collect()
    }

    /// The beginning and end of a part of a text with this length. Most parts are short.
    fn part(&mut self, length: usize) -> (usize, usize) {
        let from = self.below(length + 1);
        let longest = if self.below(3) == 0 { length } else { 80 };
        (from, (from + self.below(longest + 1)).min(length))
    }

    /// One of the seeds after a few changes. It may not be UTF-8 any more.
    pub fn mutated(&mut self, seeds: &[&[u8]]) -> Vec<u8> {
        let mut text = self.one_of(seeds).to_vec();
        for _ in 0..=self.below(6) {
            let (from, to) = self.part(text.len());
            match self.below(9) {
                0 => drop(text.drain(from..to)),
                1 => {
                    let again = text[from..to].to_vec();
                    let at = self.below(text.len() + 1);
                    text.splice(at..at, again);
                }
                2 if from < text.len() => text[from] = self.next() as u8,
                3 if from < text.len() => text[from] ^= 1 << self.below(8),
                4 => {
                    let other = self.one_of(seeds);
                    let (first, last) = self.part(other.len());
                    text.splice(from..to, other[first..last].iter().copied());
                }
                5 => {
                    let digits = "9".repeat(self.below(100));
                    text.splice(from..from, digits.into_bytes());
                }
                _ => {
                    let nasty = self.one_of(&NASTY);
                    text.splice(from..to.min(from + self.below(4)), nasty.bytes());
                }
            }
            // Longer texts would test no more, and take longer.
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

/// The seeds of a loop, one for each round.
struct Seeds {
    next: u64,
    /// The number of rounds that are left, and the time at which the loop ends.
    rounds: usize,
    until: Option<Instant>,
}

impl Seeds {
    fn new(rounds: usize) -> Seeds {
        let set = |name| std::env::var(name).ok();
        let hex = |text: String| u64::from_str_radix(text.trim_start_matches("0x"), 16);
        if let Some(seed) = set(SEED) {
            let next = hex(seed).unwrap_or_else(|error| panic!("{SEED} is a number as 0x1705: {error}"));
            return Seeds { next, rounds: 1, until: None };
        }
        let Some(seconds) = set(SECONDS) else { return Seeds { next: FIRST, rounds, until: None } };
        let seconds = seconds.parse().unwrap_or_else(|error| panic!("{SECONDS} is a number: {error}"));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Seeds {
            next: now.as_nanos() as u64,
            rounds: usize::MAX,
            until: Some(Instant::now() + Duration::from_secs(seconds)),
        }
    }
}

impl Iterator for Seeds {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let is_over = self.rounds == 0 || self.until.is_some_and(|until| Instant::now() >= until);
        let seed = self.next;
        (self.rounds, self.next) = (self.rounds.saturating_sub(1), seed.wrapping_add(1));
        (!is_over).then_some(seed)
    }
}

/// Makes and checks this many cases, or as many as fit into the time that the environment sets. A failure prints its
/// seed and its case. The loop prints the number of rounds at its end.
pub fn each<T: Debug>(rounds: usize, make: impl Fn(&mut Random) -> T, check: impl Fn(&T)) {
    let (since, mut done, mut slowest) = (Instant::now(), 0_usize, Duration::ZERO);
    for seed in Seeds::new(rounds) {
        let repeat = format!("{SEED}={seed:#x} repeats it");
        let Ok(case) = catch_unwind(AssertUnwindSafe(|| make(&mut Random::new(seed)))) else {
            panic!("no case: {repeat}")
        };
        let began = Instant::now();
        if catch_unwind(AssertUnwindSafe(|| check(&case))).is_err() {
            panic!("round {done} ({repeat}): {case:?}");
        }
        let took = began.elapsed();
        assert!(took < SLOWEST, "round {done} took {took:?} ({repeat}): {case:?}");
        (done, slowest) = (done + 1, slowest.max(took));
    }
    let name = std::thread::current().name().unwrap_or("a loop").to_string();
    eprintln!("{name}: {done} rounds in {:.1?}, the slowest took {slowest:.1?}", since.elapsed());
    assert!(done > 0);
}
