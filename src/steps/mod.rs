//! The whole program at a glance: which steps run, where they run, and what they wait for.

use crate::cluster::Node;
use crate::step::Step;

mod access;
mod addons;
mod cni;
mod files;
mod flannel;
mod hosts;
mod installed;
mod kernel;
mod kubeadm;
mod kubeconfigs;
mod kubelet;
mod labels;
mod leases;
mod member;
mod network;
mod nodes;
pub mod packets;
mod pki;
pub mod preflight;
mod processes;
mod programs;
mod running;
mod runtime;
mod services;
pub mod serving;
pub mod settings;
mod static_pods;
mod swap;
mod uploads;

pub use installed::REPLACE_COREFILE;
pub use kubelet::KEY as PACKAGE_KEY;
pub use member::is_membership;
pub use runtime::has_api_path;

/// Steps that run together. Their fixes go to a machine as one script.
#[derive(Clone, Copy)]
pub struct Stage {
    pub name: &'static str,
    pub on: On,
    pub via: Via,
    pub needs: Needs,
    pub steps: &'static [Step],
}

/// The machines that a stage asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    Every,
    ControlPlanes,
}

/// Where a stage is judged and fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// On each machine for itself.
    Node,
    /// On one control plane for the whole cluster. ironstrap chooses it after it has the replies: no control plane is
    /// special.
    Api,
}

/// The condition for a stage to change anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    Nothing,
    /// The control plane of the init node runs and accepts joins. The init node itself does not wait.
    AfterInit,
    /// Every other node of the run is done with its other stages. So no fix runs that could change the answers. Such stages
    /// come last, after the cluster's own stages, and nothing waits for them.
    OthersDone,
}

pub const STAGES: &[Stage] = &[
    Stage {
        name: "preflight",
        on: On::Every,
        via: Via::Node,
        needs: Needs::Nothing,
        steps: &[preflight::STEP],
    },
    Stage {
        name: "prepare",
        on: On::Every,
        via: Via::Node,
        needs: Needs::Nothing,
        steps: &[processes::STEP, swap::STEP, kernel::STEP, hosts::STEP, runtime::STEP, kubelet::STEP],
    },
    Stage {
        name: "trust",
        on: On::Every,
        via: Via::Node,
        needs: Needs::Nothing,
        steps: &[files::STEP, pki::STEP, kubeconfigs::STEP, static_pods::STEP],
    },
    Stage { name: "member", on: On::Every, via: Via::Node, needs: Needs::AfterInit, steps: &[member::STEP] },
    Stage {
        name: "cni",
        on: On::Every,
        via: Via::Node,
        needs: Needs::Nothing,
        steps: &[cni::STEP, services::STEP, flannel::STEP],
    },
    Stage {
        name: "access",
        on: On::ControlPlanes,
        via: Via::Api,
        needs: Needs::Nothing,
        steps: &[leases::STEP, access::STEP, installed::STEP, uploads::STEP],
    },
    Stage {
        name: "network",
        on: On::ControlPlanes,
        via: Via::Api,
        needs: Needs::Nothing,
        steps: &[network::STEP],
    },
    Stage {
        name: "settle",
        on: On::ControlPlanes,
        via: Via::Api,
        needs: Needs::Nothing,
        steps: &[nodes::STEP, serving::STEP, labels::STEP, addons::STEP],
    },
    Stage {
        name: "packets",
        on: On::Every,
        via: Via::Node,
        needs: Needs::OthersDone,
        steps: &[packets::STEP, settings::STEP],
    },
];

impl Stage {
    /// Whether the stage is about one machine alone, and does not depend on the state of the others.
    pub fn is_own(&self) -> bool {
        self.via == Via::Node && self.needs != Needs::OthersDone
    }

    pub fn is_asked_of(&self, node: &Node) -> bool {
        self.on == On::Every || node.is_control_plane()
    }
}
