//! ironstrap: one inventory file, SSH, and out comes a Kubernetes cluster.

pub mod cluster;
pub mod error;
pub mod inventory;
pub mod shell;
