//! The proxy of the inventory, as environment variables for programs.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use ipnet::IpNet;

use super::{Cluster, Proxy, authority};

impl Cluster {
    /// Environment variables for programs that download something. Without a proxy there are none. Programs reach
    /// everything that belongs to the cluster directly.
    pub fn proxy_variables(&self) -> Vec<(&'static str, String)> {
        let Proxy { http, https, no } = &self.proxy;
        if http.is_empty() && https.is_empty() {
            return vec![];
        }
        let mut direct = no.clone();
        direct.extend(["localhost", "127.0.0.1", ".svc"].map(String::from));
        direct.extend([format!(".{}", self.domain), self.endpoint.host.clone()]);
        direct.extend([self.pods.to_string(), self.services.to_string()]);
        direct.extend(self.nodes.iter().map(|node| node.ip.to_string()));
        direct.extend(self.in_ranges(no));
        let all = [
            ("HTTP_PROXY", "http_proxy", http.clone()),
            ("HTTPS_PROXY", "https_proxy", https.clone()),
            ("NO_PROXY", "no_proxy", direct.join(",")),
        ];
        let set = all.into_iter().filter(|(.., value)| !value.is_empty());
        set.flat_map(|(upper, lower, value)| [(upper, value.clone()), (lower, value)]).collect()
    }

    /// Addresses of packages and images that are in a range of `no`. They are listed one by one, because apt compares
    /// words and knows no ranges.
    fn in_ranges(&self, no: &[String]) -> BTreeSet<String> {
        let packages = self.packages.address();
        let urls =
            std::iter::once(&packages).chain(self.registries.iter().flat_map(|registry| &registry.mirrors));
        let address = |url: &String| {
            authority(url).parse::<SocketAddr>().map(|at| at.ip()).or_else(|_| authority(url).parse())
        };
        let addresses = urls.filter_map(|url| address(url).ok());
        let ranges: Vec<IpNet> = no.iter().filter_map(|entry| entry.parse().ok()).collect();
        addresses
            .filter(|ip| ranges.iter().any(|range| range.contains(ip)))
            .map(|ip| ip.to_string())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_no_proxy_ranges_are_also_listed_singly() {
        let mut cluster = crate::pki::tests::cluster();
        cluster.packages.kubernetes = "http://me:pw@198.18.0.1:8080/core".into();
        cluster.proxy = Proxy {
            https: "http://proxy.example:3128".into(),
            no: vec!["198.18.0.0/15".into(), "mirror.example".into()],
            ..Default::default()
        };
        let no = |cluster: &Cluster| {
            let all = cluster.proxy_variables();
            all.into_iter().find(|(name, _)| *name == "no_proxy").unwrap().1
        };
        assert!(no(&cluster).split(',').any(|entry| entry == "198.18.0.1"), "{}", no(&cluster));
        cluster.proxy.no = vec!["10.99.0.0/16".into()];
        assert!(!no(&cluster).split(',').any(|entry| entry == "198.18.0.1"), "{}", no(&cluster));
    }
}
