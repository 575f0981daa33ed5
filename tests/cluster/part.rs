//! Splits a long list, so that two labs can share the work: `--part=2/3` is the second of three parts.

use std::ops::Range;

/// The part that the command line names, or the whole list. A part begins only where `begins` allows it.
pub fn named(len: usize, begins: impl Fn(usize) -> bool) -> Range<usize> {
    let word = std::env::args().find_map(|word| word.strip_prefix("--part=").map(str::to_string));
    let Some(word) = word else { return 0..len };
    let numbers = word.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    match numbers {
        Some((i, n)) if (1..=n).contains(&i) => part(len, i, n, begins),
        _ => panic!("--part={word}: 2/3, for example, is the second of three parts"),
    }
}

fn part(len: usize, i: usize, n: usize, begins: impl Fn(usize) -> bool) -> Range<usize> {
    let bound = |k: usize| {
        let equal = len * k / n;
        (equal..len).find(|at| begins(*at)).unwrap_or(len)
    };
    let first = if i == 1 { 0 } else { bound(i - 1) };
    first..if i == n { len } else { bound(i) }
}

/// Checks that the parts together are the whole list, in its order.
pub fn check(len: usize, begins: impl Fn(usize) -> bool) {
    for n in 1..=5 {
        let parts = (1..=n).flat_map(|i| part(len, i, n, &begins));
        assert!(parts.eq(0..len), "{n} parts of {len}");
    }
}
