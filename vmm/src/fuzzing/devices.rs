//! The devices, one target each. The script's first byte says how the driver begins.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use virtio_bindings::virtio_blk::VIRTIO_BLK_T_IN;
use vmm_sys_util::epoll::EventSet;

use super::ROOM;
use super::guest::Guest;
use super::host::{Clients, Packets};
use super::script::Script;
use crate::balloon::Balloon;
use crate::block::{Block, SECTOR};
use crate::bus::{Bus, Console, FIRST_DEVICE};
use crate::rng::Rng;
use crate::virtio::mmio::Transport;
use crate::vsock::fuzzing::packet;

/// The script's first byte makes a disk read-only.
const READ_ONLY: u8 = 0x40;
/// Bytes of the disk.
const DISK: usize = 64 * SECTOR as usize;

/// A disk: it keeps its size, and its contents where it may not be written to.
pub fn block(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let how = script.byte();
    let memory = rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::CLOEXEC).expect(ROOM);
    let file = File::from(memory);
    file.write_all_at(&[7; DISK], 0).expect(ROOM);
    let disk = file.try_clone().expect(ROOM);
    let read_only = how & READ_ONLY != 0;
    let mut guest = Guest::new(Block::new(disk, read_only).expect(ROOM), how);
    guest.play(&mut script, |_, _| {});
    let mut header = [0; 16];
    header[..4].copy_from_slice(&VIRTIO_BLK_T_IN.to_le_bytes());
    guest.serves(0, &header, SECTOR as u32 + 1);
    assert_eq!(file.metadata().expect(ROOM).len(), DISK as u64);
    if read_only {
        let mut content = [0; DISK];
        file.read_exact_at(&mut content, 0).expect(ROOM);
        assert!(content.iter().all(|byte| *byte == 7));
    }
}

/// Entropy.
pub fn rng(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let mut guest = Guest::new(Rng, script.byte());
    guest.play(&mut script, |_, _| {});
    guest.serves(0, &[], 16);
}

/// The balloon, and reports of free pages.
pub fn balloon(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let mut guest = Guest::new(Balloon::new(Arc::default()), script.byte());
    guest.play(&mut script, |_, _| {});
    guest.serves(0, &1u32.to_le_bytes(), 0);
}

/// The network, packets from the host included: nothing gets out from an address that isn't the guest's.
pub fn net(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let packets = Packets::default();
    let mut guest = Guest::new(packets.device(), script.byte());
    guest.play(&mut script, |guest, script| {
        packets.arrive(script.bytes());
        guest.transport.ready(0, EventSet::IN);
    });
    guest.serves(1, &[0; 64], 0);
}

/// Streams, with clients on the host that connect, write, read and go.
pub fn vsock(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let how = script.byte();
    let (mut clients, device) = Clients::new();
    let mut guest = Guest::new(device, how);
    guest.play(&mut script, |guest, script| {
        let step = script.byte();
        if step >= 0x80 {
            // A packet as it must be made, but for what it says.
            let (to, operation, flags) = (script.byte(), script.byte(), script.byte());
            let (buffer, forwarded) = (script.word(), script.word());
            let packet = packet(to, operation, flags, buffer, forwarded, script.bytes());
            guest.request(1, &packet, 0);
        } else {
            clients.act(step, script);
        }
        clients.turn(&guest.transport);
    });
    guest.serves(1, &packet(0, 1, 0, 0, 0, &[]), 0);
}

/// Addresses and ports.
pub fn bus(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let memory = crate::memory::create(1).expect(ROOM);
    let device = Transport::new(Box::new(Rng), memory).expect(ROOM);
    let nowhere = File::options().write(true).open("/dev/null").expect(ROOM);
    let console = Console::new(nowhere).expect(ROOM);
    let bus = Bus::new(vec![Arc::new(device)], Some(console));
    while let Some(step) = script.step() {
        let mut data = script.long().to_le_bytes();
        let data = &mut data[..1 << (step >> 6)];
        let near = script.short();
        match step % 6 {
            0 => bus.read(FIRST_DEVICE + u64::from(near), data),
            1 => bus.write(FIRST_DEVICE + u64::from(near), data),
            2 => bus.read(script.long(), data),
            3 => bus.write(script.long(), data),
            4 => bus.read_port(near, data),
            _ => drop(bus.write_port(near, data)),
        }
    }
}
