//! What the inventory says of the cluster's DNS.

/// What the inventory says of CoreDNS; what is `None` stays as it is in the cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CoreDns {
    pub replicas: Option<u32>,
    /// The text of its Corefile.
    pub corefile: Option<String>,
}
