//! What is a sequence at the API rather than a state of machines. They are told as wants too, in their order:
//! so it is planned, resumed and reported like everything else, from what the cluster says and not from markers.

pub mod remove;
