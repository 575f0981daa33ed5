//! Expands ranges such as `w[01-40]`, where one text stands for many. An IPv6 address in brackets is not a range,
//! because it has colons.

/// Most texts that a range may stand for. No Kubernetes cluster has more nodes, so a larger range is a typing error.
const MOST: u64 = 5000;

/// Most digits that a number of a range may have. The largest number that a name can have (`u64`) has no more.
const DIGITS: usize = 20;

/// The texts that `text` stands for. A text without a range stands for itself. The error says what is wrong with the range.
pub fn expand(text: &str) -> Result<Vec<String>, String> {
    let Some((before, first, last, after)) = find(text) else {
        return Ok(vec![text.to_string()]);
    };
    if find(after).is_some() {
        return Err("only one range is allowed".into());
    }
    if first.len() > DIGITS || last.len() > DIGITS {
        return Err(format!("a number in a range has at most {DIGITS} digits"));
    }
    let padded = |digits: &str| digits.len() > 1 && digits.starts_with('0');
    if (padded(first) || padded(last)) && first.len() != last.len() {
        return Err(format!("both ends of [{first}-{last}] need the same number of digits"));
    }
    let (Ok(low), Ok(high)) = (first.parse::<u64>(), last.parse::<u64>()) else {
        return Err(format!("the numbers of [{first}-{last}] are too large"));
    };
    if low > high {
        return Err(format!("[{first}-{last}] runs backwards; write [{last}-{first}]"));
    }
    if high - low >= MOST {
        return Err(format!("[{first}-{last}] stands for more than {MOST} machines"));
    }
    let width = if padded(first) { first.len() } else { 0 };
    Ok((low..=high).map(|number| format!("{before}{number:0width$}{after}")).collect())
}

/// Finds the first range. Returns the text before it, its two ends, and the text after it.
fn find(text: &str) -> Option<(&str, &str, &str, &str)> {
    text.match_indices('[').find_map(|(start, _)| {
        let (inner, after) = text[start + 1..].split_once(']')?;
        let (first, last) = inner.split_once('-')?;
        let digits = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
        (digits(first) && digits(last)).then_some((&text[..start], first, last, after))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_expands_to_all_its_numbers() {
        assert_eq!(expand("w[9-11]").unwrap(), ["w9", "w10", "w11"]);
        assert_eq!(expand("10.0.0.[1-2]:22").unwrap(), ["10.0.0.1:22", "10.0.0.2:22"]);
        assert_eq!(expand("[fd00::[1-2]]:22").unwrap(), ["[fd00::1]:22", "[fd00::2]:22"]);
        assert_eq!(expand("[::1]:22").unwrap(), ["[::1]:22"]);
    }

    #[test]
    fn leading_zeros_are_kept() {
        assert_eq!(expand("w[08-10]").unwrap(), ["w08", "w09", "w10"]);
        assert_eq!(expand("w[0-1]").unwrap(), ["w0", "w1"]);
    }

    #[test]
    fn a_number_with_too_many_digits_is_refused() {
        let zeros = "0".repeat(70_000);
        let error = expand(&format!("w[{zeros}1-{zeros}2]")).unwrap_err();
        assert_eq!(error, "a number in a range has at most 20 digits");
        let (first, last) = ("0".repeat(19) + "1", "0".repeat(19) + "2");
        assert_eq!(expand(&format!("w[{first}-{last}]")).unwrap(), [format!("w{first}"), format!("w{last}")]);
    }

    #[test]
    fn an_invalid_range_is_refused() {
        for wrong in ["w[3-1]", "w[1-010]", "w[1-9][1-9]", "w[1-9999]", "w[1-99999999999999999999]"] {
            assert!(expand(wrong).is_err(), "{wrong}");
        }
    }
}
