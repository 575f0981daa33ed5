//! The operations of ironstrap on the list of wants, besides `apply`. A reset reads the list backwards. A removal
//! first takes a node out of the cluster. The API calls that a removal needs are wants, too. So ironstrap plans,
//! resumes and reports them like everything else, from what the cluster says and not from markers.

pub mod remove;
pub mod reset;
