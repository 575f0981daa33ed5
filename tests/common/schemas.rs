//! What ironstrap prints as JSON is as the schemas in docs/schema say.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::Value;

static SCHEMAS: LazyLock<BTreeMap<&str, Validator>> = LazyLock::new(|| {
    let schema = |name| {
        let file = format!("{}/docs/schema/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let schema: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        (name, jsonschema::validator_for(&schema).unwrap())
    };
    ["events", "status", "ssh-check"].map(schema).into()
});

/// Fails where a document is not as the schema of this name says. It names each place where it is not.
pub fn assert_valid(schema: &str, document: &Value) {
    let errors = SCHEMAS[schema].iter_errors(document);
    let errors: Vec<String> = errors.map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}\n{document:#}");
}
