//! Bad input and bad luck with registries, archives and commands: a clear error, and nothing lost.

mod archives;
mod containers;
mod quotas;
mod registries;

use hearth_tests::archive::Image;
use hearth_tests::docker::Docker;
use hearth_tests::images;
use hearth_tests::layer::Layer;
use hearth_tests::target::{self, Target};

fn setup() -> (&'static Target, &'static Docker) {
    let target = target::shared();
    (target, target.docker())
}

/// The same, where nothing is booted: for cases in which no container runs.
fn plain() -> (&'static Target, &'static Docker) {
    let target = target::plain();
    (target, target.docker())
}

/// An image with a layer of 512 KiB that no compression makes small, and that no other has.
fn large(name: &str) -> Image {
    let mut state: u64 = name.bytes().fold(88_172_645_463_325_252, |state, byte| {
        state.wrapping_mul(31) + u64::from(byte)
    });
    // A run of the tests must not find what an earlier one left.
    state ^= u64::from(std::process::id()) << 20;
    let noise: Vec<u8> = (0..512 << 10)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[7]
        })
        .collect();
    images::busybox().with_layer(Layer::new().file("noise", 0o644, &noise))
}

/// Images on the node, for "nothing changed".
#[track_caller]
fn listed(docker: &Docker, reference: &str) -> String {
    docker.ok(&["images", "-q", reference])
}
