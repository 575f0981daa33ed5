//! A sequence of calls of the API is no state of machines. It is written as wants too, in their order:
//! so it is planned, resumed and reported like everything else, from what the cluster says and not from markers.

pub mod remove;
