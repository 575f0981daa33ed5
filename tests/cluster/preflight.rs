//! What a machine has of packages is named before the first change: nothing is touched, and after
//! what the hints say nothing stands in the way any more.

use crate::lab::assert_untouched;
use crate::world::World;
use crate::{Ground, Scenario};

pub const SCENARIOS: &[Scenario] = &[Scenario {
    says: "packages in the way are named before anything is changed",
    ground: Ground::Fresh,
    run: in_the_way,
}];

/// A stand-in for Docker's own packages, on hold.
const DOCKER: &str = r#"set -e; cd /tmp; mkdir -p c/DEBIAN d/DEBIAN
m='Architecture: all\nMaintainer: lab <lab@example.com>\nDescription: stand-in\n'
printf "Package: containerd.io\nVersion: 1.7.27-1\nProvides: containerd, runc\nConflicts: containerd, runc\nReplaces: containerd, runc\n$m" >c/DEBIAN/control
printf "Package: docker-ce\nVersion: 5:28.0.1-1\nDepends: containerd.io\n$m" >d/DEBIAN/control
dpkg-deb -b c c.deb >/dev/null; dpkg-deb -b d d.deb >/dev/null; dpkg -i c.deb d.deb >/dev/null; rm -rf c d c.deb d.deb
apt-mark hold containerd.io docker-ce >/dev/null"#;

/// What is wrong with machines: the node, what makes it so, words of the error, and what the hint says to do.
const WRONG: &[(&str, &str, &[&str], &str)] = &[(
    "w1",
    DOCKER,
    &[
        "no package has to go",
        "containerd.io, which is on hold, would be removed",
        "docker-ce, which is on hold",
    ],
    "apt-get -y -qq remove --allow-change-held-packages containerd.io docker-ce >/dev/null",
)];

fn in_the_way(world: &World) {
    for (node, script, ..) in WRONG {
        world.lab.ssh(node, script);
    }
    let before = world.lab.look_at_all();
    for mut run in [world.plan(), world.apply()] {
        for (node, _, words, _) in WRONG {
            run = run.refused(5, node, words);
        }
    }
    assert_untouched(&before, &world.lab.look_at_all());
    for (node, _, _, mend) in WRONG {
        world.lab.ssh(node, mend);
    }
    world.plan().good();
}
