//! The DNS settings of the inventory.

/// The CoreDNS settings of the inventory. A setting that is `None` stays as it is in the cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CoreDns {
    pub replicas: Option<u32>,
    /// The text of its Corefile.
    pub corefile: Option<String>,
}
