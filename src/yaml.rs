//! Reads and writes YAML in the same way as Kubernetes' own programs. Their reader is one of YAML 1.1: `0644` is an octal
//! number and `yes` is true. No other module reads or writes YAML.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// How many parts of a document may be copies of another part. Without this limit, ten lines of a hostile document could
/// mean millions.
const COPIES: usize = 50_000;

/// The options of the reader. It takes numbers as kubectl, kubeadm and the kubelet do. With YAML 1.2's rules, a
/// `defaultMode: 0400` would be four hundred.
fn rules() -> serde_saphyr::Options {
    serde_saphyr::options! {
        legacy_octal_numbers: true,
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: COPIES },
    }
}

/// Reads one document. The error says where the text is no YAML.
pub fn read<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_saphyr::from_str_with_options(text, rules()).map_err(|error| error.to_string())
}

/// Reads all documents of a text, without those that are empty.
pub fn read_all(text: &str) -> Result<Vec<Value>, String> {
    let all: Vec<Value> =
        serde_saphyr::from_multiple_with_options(text, rules()).map_err(|error| error.to_string())?;
    Ok(all.into_iter().filter(|document| !document.is_null()).collect())
}

/// Writes one document in block style, because kubeadm takes a text that begins with `{` for JSON. A string of several lines
/// is written in quotes. Kubernetes' reader refuses a block (`|`) whose first line is empty and whose second begins with a
/// tab.
pub fn write(document: &Value) -> Result<String, String> {
    let style = serde_saphyr::ser_options! { prefer_block_scalars: false };
    serde_saphyr::to_string_with_options(document, style).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scalars_are_read_as_in_kubernetes() {
        for (written, meant) in [
            ("0644", json!(420)),
            ("0400", json!(256)),
            ("-010", json!(-8)),
            ("+0644", json!(420)),
            ("0o644", json!(420)),
            ("0x1F", json!(31)),
            ("0b11", json!(3)),
            ("1_000", json!(1000)),
            ("0_7", json!(7)),
            ("00", json!(0)),
            ("0", json!(0)),
            ("yes", json!(true)),
            ("off", json!(false)),
            ("'0644'", json!("0644")),
            ("2001-01-01", json!("2001-01-01")),
            ("12:30", json!("12:30")),
            ("1.0.0", json!("1.0.0")),
            ("08.5", json!(8.5)),
            ("=", json!("=")),
        ] {
            let text = format!("a: {written}\n");
            assert_eq!(read::<Value>(&text).unwrap()["a"], meant, "{written}");
            assert_eq!(read_all(&text).unwrap()[0]["a"], meant, "{written}");
        }
        assert_eq!(read_all("---\n---\n{}\n").unwrap(), [json!({})]);
    }

    #[test]
    fn repeated_aliases_cannot_exhaust_memory() {
        let bomb = (0..30).fold("a: &a0 [x]\n".to_string(), |text, n| {
            format!("{text}b{n}: &a{} [*a{n}, *a{n}, *a{n}]\n", n + 1)
        });
        let why = read::<Value>(&bomb).unwrap_err();
        assert!(why.contains("alias replay limit exceeded"), "{why}");
        let fine = "a: &a [x, z]\n".to_string() + &(0..50).map(|n| format!("b{n}: *a\n")).collect::<String>();
        assert_eq!(read::<Value>(&fine).unwrap()["b49"], json!(["x", "z"]));
    }

    #[test]
    fn text_with_a_leading_tab_is_written_in_quotes() {
        let text = write(&json!({"Makefile": "\n\tall:\n"})).unwrap();
        assert_eq!(text, "Makefile: \"\\n\\tall:\\n\"\n");
    }
}
