//! The register protocol of virtio over MMIO, version 2 (virtio 1.2 section 4.2).

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_mmio::*;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::QueueT;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::interrupt::Interrupt;
use super::ring::{Outcome, Ring, Rings};
use super::{Device, Token};
use crate::memory::GuestMemory;

/// Bytes of guest address space that a device's registers take: a page, as Linux expects.
pub const REGISTERS_SIZE: u64 = 4096;

/// `"virt"` (virtio 1.2 section 4.2.2.1).
const MAGIC: u32 = 0x7472_6976;
/// Register layout without the legacy ones (virtio 1.2 section 4.2.2.1).
const VERSION: u32 = 2;
/// Linux shows it and does nothing with it: "HRTH".
const VENDOR: u32 = 0x4854_5248;
/// What the shared memory registers say when there is no such region (virtio 1.2 section 4.2.2, `SHMLenLow`).
const NO_SHARED_MEMORY: u32 = u32::MAX;

/// A device, its registers, and the two events that connect it to the guest.
pub struct Transport {
    interrupt: Arc<Interrupt>,
    /// Written to by KVM when the driver notifies any queue.
    notify: EventFd,
    memory: GuestMemory,
    /// Protects the device and its registers; held while the device works on an event.
    state: Mutex<State>,
}

struct State {
    device: Box<dyn Device>,
    rings: Vec<Ring>,
    status: u32,
    device_features_page: u32,
    driver_features_page: u32,
    driver_features: u64,
    selected: usize,
    config_generation: u32,
}

impl Transport {
    /// Puts registers in front of `device`.
    pub fn new(device: Box<dyn Device>, memory: GuestMemory) -> io::Result<Self> {
        let rings = device
            .queue_sizes()
            .iter()
            .map(|size| Ring::new(*size))
            .collect();
        let state = State {
            device,
            rings,
            status: 0,
            device_features_page: 0,
            driver_features_page: 0,
            driver_features: 0,
            selected: 0,
            config_generation: 0,
        };
        Ok(Self {
            interrupt: Arc::new(Interrupt::new()?),
            notify: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
            memory,
            state: Mutex::new(state),
        })
    }

    /// Towards the guest.
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// From the guest; its readiness means [`Transport::notified`].
    pub fn notify(&self) -> &EventFd {
        &self.notify
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic anywhere ends the process; see `crate::failure`.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest reads a register. `data` is what KVM hands out: 1 to 8 bytes.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        if offset >= u64::from(VIRTIO_MMIO_CONFIG) {
            let state = self.state();
            let config = state.device.config();
            let from = (offset - u64::from(VIRTIO_MMIO_CONFIG)) as usize;
            for (i, byte) in data.iter_mut().enumerate() {
                *byte = config.get(from + i).copied().unwrap_or(0);
            }
            return;
        }
        let value = match offset as u32 {
            VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt.status(),
            register => self.state().read(register),
        };
        match data.len() {
            4 => data.copy_from_slice(&value.to_le_bytes()),
            _ => data.fill(0),
        }
    }

    /// The guest writes a register.
    pub fn write(&self, offset: u64, data: &[u8]) {
        if offset >= u64::from(VIRTIO_MMIO_CONFIG) {
            let from = (offset - u64::from(VIRTIO_MMIO_CONFIG)) as usize;
            self.state().device.write_config(from, data);
            return;
        }
        let Ok(value) = data.try_into().map(u32::from_le_bytes) else {
            return;
        };
        match offset as u32 {
            VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt.acknowledge(value),
            // Comes here only where there is no ioeventfd.
            VIRTIO_MMIO_QUEUE_NOTIFY => {
                let _ = self.notify.write(1);
            }
            VIRTIO_MMIO_STATUS => {
                let mut state = self.state();
                state.write_status(value, &self.memory, &self.interrupt);
                // What was ready before the driver was is looked at now.
                if state.active() {
                    let _ = self.notify.write(1);
                }
            }
            register => self.state().write(register, value),
        }
    }

    /// The driver has notified, or the device has asked to be called again.
    pub fn notified(&self) {
        // Nothing may have happened at all (virtio 1.2 section 2.7.10.2: spurious notifications).
        let _ = self.notify.read();
        self.with_rings(|device, rings| {
            if rings.active() {
                device.notified(rings);
            }
        });
    }

    /// One of the device's own descriptors is ready.
    pub fn ready(&self, token: Token, events: EventSet) {
        self.with_rings(|device, rings| device.ready(token, events, rings));
    }

    fn with_rings(&self, work: impl FnOnce(&mut dyn Device, &mut Rings<'_>)) {
        let mut state = self.state();
        let outcome = state.work(&self.memory, work);
        if outcome.broken && state.active() {
            state.status |= VIRTIO_CONFIG_S_NEEDS_RESET;
            self.interrupt.config_changed();
        }
        drop(state);
        if outcome.interrupt {
            self.interrupt.queue_used();
        }
        if outcome.again {
            let _ = self.notify.write(1);
        }
    }
}

impl State {
    fn offered(&self) -> u64 {
        self.device.features()
            | 1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
    }

    /// The driver is there, and nothing is wrong. Queues are touched in no other state (virtio 1.2 sections 2.1.2 and 2.4.1).
    fn active(&self) -> bool {
        self.status & VIRTIO_CONFIG_S_DRIVER_OK != 0
            && self.status & VIRTIO_CONFIG_S_NEEDS_RESET == 0
    }

    fn work(
        &mut self,
        memory: &GuestMemory,
        work: impl FnOnce(&mut dyn Device, &mut Rings<'_>),
    ) -> Outcome {
        let active = self.active();
        let rings = if active {
            self.rings.as_mut_slice()
        } else {
            &mut []
        };
        let mut rings = Rings::new(memory, rings);
        work(self.device.as_mut(), &mut rings);
        rings.finish()
    }

    fn read(&self, register: u32) -> u32 {
        let ring = self.rings.get(self.selected);
        match register {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_DEVICE_ID => self.device.id(),
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => match self.device_features_page {
                0 => self.offered() as u32,
                1 => (self.offered() >> 32) as u32,
                _ => 0,
            },
            VIRTIO_MMIO_QUEUE_NUM_MAX => ring.map_or(0, |ring| ring.queue.max_size().into()),
            VIRTIO_MMIO_QUEUE_READY => ring.map_or(0, |ring| ring.queue.ready().into()),
            VIRTIO_MMIO_STATUS => self.status,
            VIRTIO_MMIO_CONFIG_GENERATION => self.config_generation,
            VIRTIO_MMIO_SHM_LEN_LOW..=VIRTIO_MMIO_SHM_BASE_HIGH => NO_SHARED_MEMORY,
            _ => 0,
        }
    }

    fn write(&mut self, register: u32, value: u32) {
        match register {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.device_features_page = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.driver_features_page = value,
            VIRTIO_MMIO_DRIVER_FEATURES => {
                // Fixed once accepted: only a reset opens them again (virtio 1.2 section 2.2).
                if self.status & VIRTIO_CONFIG_S_FEATURES_OK == 0 {
                    let (mask, shift) = match self.driver_features_page {
                        0 => (!0 << 32, 0),
                        1 => (u64::from(u32::MAX), 32),
                        _ => return,
                    };
                    self.driver_features = self.driver_features & mask | u64::from(value) << shift;
                }
            }
            VIRTIO_MMIO_QUEUE_SEL => self.selected = value as usize,
            _ => self.write_queue(register, value),
        }
    }

    /// A queue is set up between FEATURES_OK and DRIVER_OK (virtio 1.2 sections 3.1.1 and 4.2.3.2), and stays as it is from then on
    /// until a reset.
    fn write_queue(&mut self, register: u32, value: u32) {
        let open = self.status & VIRTIO_CONFIG_S_FEATURES_OK != 0
            && self.status & VIRTIO_CONFIG_S_DRIVER_OK == 0;
        let Some(ring) = self.rings.get_mut(self.selected).filter(|_| open) else {
            return;
        };
        let queue = &mut ring.queue;
        if register == VIRTIO_MMIO_QUEUE_READY {
            queue.set_ready(value == 1);
            return;
        }
        if queue.ready() {
            return;
        }
        match register {
            // Sizes that are too large or no power of two leave the queue as it is; it is then not valid.
            VIRTIO_MMIO_QUEUE_NUM => queue.set_size(u16::try_from(value).unwrap_or(0)),
            VIRTIO_MMIO_QUEUE_DESC_LOW => queue.set_desc_table_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_DESC_HIGH => queue.set_desc_table_address(None, Some(value)),
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => queue.set_avail_ring_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => queue.set_avail_ring_address(None, Some(value)),
            VIRTIO_MMIO_QUEUE_USED_LOW => queue.set_used_ring_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_USED_HIGH => queue.set_used_ring_address(None, Some(value)),
            _ => {}
        }
    }

    fn write_status(&mut self, value: u32, memory: &GuestMemory, interrupt: &Interrupt) {
        // Writing zero is a reset (virtio 1.2 section 4.2.2, `Status`); no bit is cleared otherwise (section 2.1.1).
        if value == 0 {
            self.reset();
            interrupt.clear();
            return;
        }
        let new = value & !self.status & !VIRTIO_CONFIG_S_NEEDS_RESET;
        // Features that were not offered are refused by leaving FEATURES_OK unset, and so is a legacy driver, which does not know
        // VIRTIO_F_VERSION_1 (virtio 1.2 sections 2.2.2 and 6.2).
        if new & VIRTIO_CONFIG_S_FEATURES_OK != 0 {
            let acceptable = self.driver_features & !self.offered() == 0
                && self.driver_features & 1 << VIRTIO_F_VERSION_1 != 0;
            if !acceptable {
                self.status |= new & !VIRTIO_CONFIG_S_FEATURES_OK;
                return;
            }
        }
        self.status |= new;
        if new & VIRTIO_CONFIG_S_DRIVER_OK != 0 {
            let usable = self.status & VIRTIO_CONFIG_S_FEATURES_OK != 0
                && self
                    .rings
                    .iter()
                    .all(|ring| !ring.queue.ready() || ring.queue.is_valid(memory));
            if usable {
                let event_index = self.driver_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
                for ring in &mut self.rings {
                    ring.queue.set_event_idx(event_index);
                }
                self.device.activate(self.driver_features);
            } else {
                // Told by a notification, too (virtio 1.2 section 2.1.2).
                self.status |= VIRTIO_CONFIG_S_NEEDS_RESET;
                interrupt.config_changed();
            }
        }
    }

    fn reset(&mut self) {
        self.device.reset();
        // No queue is ready after a reset (virtio 1.2 section 4.2.2.1).
        for (ring, size) in self.rings.iter_mut().zip(self.device.queue_sizes()) {
            *ring = Ring::new(*size);
        }
        self.status = 0;
        self.driver_features = 0;
        self.driver_features_page = 0;
        self.device_features_page = 0;
        self.selected = 0;
        self.config_generation = self.config_generation.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use crate::virtio::testing::memory;
    use proptest::prelude::*;
    use virtio_bindings::virtio_config::{VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER};

    fn transport() -> Transport {
        Transport::new(Box::new(Rng), memory()).unwrap()
    }

    fn get(transport: &Transport, register: u32) -> u32 {
        let mut data = [0; 4];
        transport.read(register.into(), &mut data);
        u32::from_le_bytes(data)
    }

    fn put(transport: &Transport, register: u32, value: u32) {
        transport.write(register.into(), &value.to_le_bytes());
    }

    /// What a driver does, up to and including the queue.
    fn negotiate(transport: &Transport, features: u64) -> u32 {
        let status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
        put(transport, VIRTIO_MMIO_STATUS, status);
        for page in [0, 1] {
            put(transport, VIRTIO_MMIO_DRIVER_FEATURES_SEL, page);
            put(
                transport,
                VIRTIO_MMIO_DRIVER_FEATURES,
                (features >> (32 * page)) as u32,
            );
        }
        put(
            transport,
            VIRTIO_MMIO_STATUS,
            status | VIRTIO_CONFIG_S_FEATURES_OK,
        );
        put(transport, VIRTIO_MMIO_QUEUE_NUM, 16);
        put(transport, VIRTIO_MMIO_QUEUE_DESC_LOW, 0x1000);
        put(transport, VIRTIO_MMIO_QUEUE_AVAIL_LOW, 0x2000);
        put(transport, VIRTIO_MMIO_QUEUE_USED_LOW, 0x3000);
        put(transport, VIRTIO_MMIO_QUEUE_READY, 1);
        get(transport, VIRTIO_MMIO_STATUS)
    }

    #[test]
    fn a_queue_can_not_be_changed_once_the_driver_is_ready() {
        let transport = transport();
        let status = negotiate(&transport, 1 << VIRTIO_F_VERSION_1);
        put(
            &transport,
            VIRTIO_MMIO_STATUS,
            status | VIRTIO_CONFIG_S_DRIVER_OK,
        );
        assert_eq!(
            get(&transport, VIRTIO_MMIO_STATUS),
            status | VIRTIO_CONFIG_S_DRIVER_OK
        );
        put(&transport, VIRTIO_MMIO_QUEUE_READY, 0);
        put(&transport, VIRTIO_MMIO_QUEUE_NUM, 64);
        put(&transport, VIRTIO_MMIO_QUEUE_DESC_HIGH, 1);
        let state = transport.state();
        let queue = &state.rings[0].queue;
        assert_eq!(
            (queue.ready(), queue.size(), queue.desc_table()),
            (true, 16, 0x1000)
        );
        drop(state);
        put(&transport, VIRTIO_MMIO_STATUS, 0);
        assert_eq!(get(&transport, VIRTIO_MMIO_QUEUE_READY), 0);
    }

    #[test]
    fn features_that_were_not_offered_are_not_accepted() {
        for features in [0, 1 << VIRTIO_F_VERSION_1 | 1] {
            assert_eq!(
                negotiate(&transport(), features) & VIRTIO_CONFIG_S_FEATURES_OK,
                0
            );
        }
    }

    #[test]
    fn a_queue_outside_memory_makes_the_device_ask_for_a_reset() {
        let transport = transport();
        put(&transport, VIRTIO_MMIO_QUEUE_SEL, 0);
        let status = negotiate(&transport, 1 << VIRTIO_F_VERSION_1);
        put(&transport, VIRTIO_MMIO_QUEUE_READY, 0);
        put(&transport, VIRTIO_MMIO_QUEUE_DESC_HIGH, 1);
        put(&transport, VIRTIO_MMIO_QUEUE_READY, 1);
        put(
            &transport,
            VIRTIO_MMIO_STATUS,
            status | VIRTIO_CONFIG_S_DRIVER_OK,
        );
        let now = get(&transport, VIRTIO_MMIO_STATUS);
        assert_ne!(now & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
        assert_eq!(
            get(&transport, VIRTIO_MMIO_INTERRUPT_STATUS),
            VIRTIO_MMIO_INT_CONFIG
        );
        transport.notified();
    }

    proptest! {
        #[test]
        fn any_registers_in_any_order_are_harmless(
            accesses in proptest::collection::vec(
                (0..0x44u32, prop_oneof![0..16u32, any::<u32>()], any::<bool>(), 0..10u8), 0..300),
        ) {
            let transport = transport();
            for (register, value, write, event) in accesses {
                if write {
                    put(&transport, register * 4, value);
                } else {
                    get(&transport, register * 4);
                }
                if event == 0 {
                    transport.notified();
                }
            }
        }
    }
}
