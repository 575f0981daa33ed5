//! `explain` and `schema`: describe what an inventory may say, for people and for editors. They read no inventory.

use clap::Args;

use super::{End, Outcome, one};
use crate::inventory::reference;
use crate::report;

#[derive(Args)]
pub(super) struct Explain {
    /// A table or a field, as in nodes, nodes.taints or taints. Without it, all tables are listed.
    field: Option<String>,
}

pub(super) fn explain(args: &Explain) -> Outcome {
    let text = reference::explain(args.field.as_deref()).map_err(one)?;
    report::raw(text.as_bytes());
    Ok(End::Good)
}

pub(super) fn schema() -> Outcome {
    report::raw(format!("{:#}\n", reference::schema()).as_bytes());
    Ok(End::Good)
}
