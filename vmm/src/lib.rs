//! A KVM monitor for one microVM: 64-bit boot of an uncompressed kernel, virtio devices over MMIO, no PCI, no ACPI, no BIOS.
//!
//! How it is configured and commanded is in `hearth_vmm_api`; the executable is [`run`] and nothing else. From start to end:
//!
//! 1. [`inherit`] takes over what the controller has left open;
//! 2. [`machine`] makes memory and devices, [`kvm`] the virtual machine and its CPUs, and [`boot`] fills memory;
//! 3. from here on the process ends with its node's lease (`hearth_vmm_api::lease`), whatever else it is doing, and [`jail`] gives up everything that is not needed from here on;
//! 4. the virtual CPUs' threads run the guest ([`vcpu`]), one thread the disks, and the main thread all other devices and the
//!    command socket ([`api`]).
//!
//! Devices ([`block`], [`net`], [`vsock`], [`rng`], [`balloon`]) implement [`virtio::Device`] and know nothing of the rest. Nothing
//! in this crate knows what a container, an image or a node is.

pub mod api;
pub mod balloon;
pub mod block;
pub mod boot;
pub mod bus;
pub mod events;
pub mod failure;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod gate;
pub mod inherit;
pub mod jail;
pub mod kvm;
pub mod machine;
pub mod memory;
pub mod net;
pub mod rng;
mod running;
pub mod vcpu;
pub mod virtio;
pub mod vsock;
mod warnings;
mod worker;

/// Runs a microVM from beginning to end.
pub fn run() -> Result<(), failure::Failure> {
    machine::Machine::build(inherit::take()?)?.run()
}
