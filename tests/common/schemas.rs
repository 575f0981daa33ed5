//! What ironstrap prints as JSON is as the schemas in docs/schema say.

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

/// Later versions may have more fields, so a schema allows them. This version has those of its schema and no others.
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

/// Fails where a document is not as the schema of this name says. It names each place where it is not.
pub fn assert_valid(schema: &str, document: &Value) {
    let errors = SCHEMAS[schema].iter_errors(document);
    let errors: Vec<String> = errors.map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}\n{document:#}");
}
