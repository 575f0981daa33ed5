//! Checks the JSON output of ironstrap against the schemas in docs/schema.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::Value;

static SCHEMAS: LazyLock<BTreeMap<&str, Validator>> = LazyLock::new(|| {
    let schema = |name| {
        let file = format!("{}/docs/schema/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let mut schema: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        close(&mut schema);
        (name, jsonschema::validator_for(&schema).unwrap())
    };
    ["events", "status", "ssh-check"].map(schema).into()
});

/// Makes a schema refuse unknown fields. The schemas allow them, because later versions may have more fields.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.values_mut().for_each(close);
            if fields.contains_key("properties") && fields.contains_key("required") {
                fields.entry("additionalProperties").or_insert(Value::Bool(false));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

/// Panics if a document does not match the schema with this name. The message names each place that does not match.
pub fn assert_valid(schema: &str, document: &Value) {
    let errors = SCHEMAS[schema].iter_errors(document);
    let errors: Vec<String> = errors.map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}\n{document:#}");
}
