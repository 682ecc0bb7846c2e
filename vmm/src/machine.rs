//! A microVM: put together, run, commanded.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use hearth_vmm_api::lease;
use kvm_ioctls::{IoEventAddress, NoDatamatch, VcpuFd, VmFd};
use virtio_bindings::virtio_mmio::VIRTIO_MMIO_QUEUE_NOTIFY;
use vmm_sys_util::epoll::{Epoll, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::api::Server;
use crate::balloon::Balloon;
use crate::block::Block;
use crate::boot;
use crate::boot::command_line::{self, DevicePlace};
use crate::bus::{self, Bus, Console};
use crate::events::Watcher;
use crate::failure::Failure;
use crate::gate::Gate;
use crate::inherit::{Inheritance, check_disk};
use crate::jail::seccomp::{self, Thread};
use crate::jail::{self, Limits};
use crate::kvm;
use crate::memory::{self, GuestMemory};
use crate::net::{Net, tun::Tun};
use crate::rng::Rng;
use crate::running::{API, ENDED, Running};
use crate::vcpu::statistics::Exits;
use crate::vcpu::thread::{self, End, Shared};
use crate::virtio::Device;
use crate::virtio::mmio::{REGISTERS_SIZE, Transport};
use crate::vsock::{MOST_CONNECTIONS, Vsock};
use crate::worker::Worker;

/// Interrupt lines for virtio devices: those of the I/O APIC that neither timer, keyboard, cascade, serial port nor clock have on
/// every PC. More devices than lines share them, which is safe: each event is an edge of its own, and handlers look at
/// their own device.
const LINES: [u32; 18] = [
    5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23,
];
/// Stack of a thread of ours, bytes: nothing here recurses, and the largest buffers on a stack are some KiB.
const STACK: usize = 256 << 10;
/// Descriptors beside those of vsock connections: what is inherited, made for KVM and devices, and the command socket's clients.
const OTHER_DESCRIPTORS: u64 = 512;
/// Threads that KVM starts in this process by itself when the guest first runs: the one that takes large pages apart on CPUs with the
/// iTLB multihit bug.
const KVM_THREADS: u64 = 1;
/// What the console or stderr may be written to as regular files, bytes.
const LOG_ROOM: u64 = 64 << 20;

/// A microVM that is ready to run.
pub struct Machine {
    name: String,
    vcpus: Vec<VcpuFd>,
    exits: Vec<Exits>,
    bus: Arc<Bus>,
    shared: Arc<Shared>,
    ready: Arc<AtomicBool>,
    reported_free: Arc<AtomicU64>,
    devices: Worker,
    disks: Worker,
    api: Server,
    /// Command socket and end of the guest: what is still listened to while paused.
    control: Arc<Epoll>,
    /// Keep the virtual machine alive; devices have only what they need of them.
    _vm: VmFd,
    _memory: GuestMemory,
}

impl Machine {
    /// Makes the machine, loads the guest, and locks the process in. Called once, while there is one thread.
    pub fn build(given: Inheritance) -> Result<Self, Failure> {
        let config = &given.config;
        let memory = memory::create(config.memory_mib)?;
        let vm = kvm::virtual_machine(&given.kvm, &memory)?;

        let (ready, reported_free) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut devices = Worker::new().map_err(Failure::system("making an epoll"))?;
        let mut disks = Worker::new().map_err(Failure::system("making an epoll"))?;
        let mut all: Vec<Arc<Transport>> = Vec::new();
        let mut add = |worker: &mut Worker, name: &str, made: Box<dyn Device>| {
            let transport =
                Arc::new(Transport::new(made, memory.clone()).map_err(Failure::device(name))?);
            connect(&vm, &transport, all.len())?;
            worker
                .add(transport.clone())
                .map_err(Failure::device(name))?;
            all.push(transport);
            Ok::<(), Failure>(())
        };
        let largest_disk = given
            .disks
            .iter()
            .filter_map(|file| file.metadata().ok())
            .map(|m| m.len())
            .max();
        for (index, (file, disk)) in given.disks.into_iter().zip(&config.disks).enumerate() {
            let name = format!("disk {index}");
            check_disk(&file).map_err(Failure::device(name.as_str()))?;
            let block = Block::new(file, disk.read_only).map_err(Failure::device(name.as_str()))?;
            add(&mut disks, &name, Box::new(block))?;
        }
        if let (Some(network), Some(tun)) = (&config.network, given.tun) {
            let tun = Tun::new(tun).map_err(Failure::device("network"))?;
            let net =
                Net::new(network, tun, &devices.watcher()).map_err(Failure::device("network"))?;
            add(&mut devices, "network", Box::new(net))?;
        }
        let vsock = Vsock::new(given.vsock, ready.clone(), devices.watcher())
            .map_err(Failure::device("vsock"))?;
        add(&mut devices, "vsock", Box::new(vsock))?;
        add(&mut devices, "random numbers", Box::new(Rng))?;
        add(
            &mut devices,
            "balloon",
            Box::new(Balloon::new(reported_free.clone())),
        )?;
        let places: Vec<DevicePlace> = (0..all.len()).map(place).collect();
        let console = given.console.map(|file| console(&vm, file)).transpose()?;

        let line = command_line::make(&places, console.is_some(), &config.command_line)
            .map_err(boot::Error::from)?;
        let entry = boot::load(
            &memory,
            &given.kernel,
            &given.initramfs,
            &line,
            config.vcpus,
        )?;
        let vcpus = kvm::processors(&given.kvm, &vm, config.vcpus, entry)?;
        let exits = vcpus.iter().map(Exits::of).collect();

        let threads = vcpus.len() + usize::from(!disks.is_empty());
        let shared =
            Arc::new(Shared::new(Gate::new(threads)).map_err(Failure::system("making an event"))?);
        let control = Arc::new(Epoll::new().map_err(Failure::system("making an epoll"))?);
        let watcher = |source| Watcher::new(control.clone(), source);
        let api =
            Server::new(given.api, watcher(API)).map_err(Failure::device("command socket"))?;
        watcher(ENDED)
            .add(&shared.ended, 0, EventSet::IN)
            .map_err(Failure::system("watching for the end"))?;
        devices
            .watch_other(control.as_ref())
            .map_err(Failure::system("watching the command socket"))?;

        let limits = Limits {
            descriptors: MOST_CONNECTIONS as u64 + OTHER_DESCRIPTORS,
            file_size: largest_disk.unwrap_or(0).max(LOG_ROOM),
            threads: 1 + threads as u64 + KVM_THREADS,
        };
        if let Some(page) = given.lease {
            lease::keep(page).map_err(Failure::system("keeping to the node's lease"))?;
        }
        jail::confine(&config.jail, &given.root, &limits)?;
        Ok(Self {
            name: given.config.name,
            vcpus,
            exits,
            bus: Arc::new(Bus::new(all, console)),
            shared,
            ready,
            reported_free,
            devices,
            disks,
            api,
            control,
            _vm: vm,
            _memory: memory,
        })
    }

    /// Runs the guest until it ends or is stopped.
    pub fn run(self) -> Result<(), Failure> {
        let (main, vcpu, disk) = (
            seccomp::filter(Thread::Main)?,
            seccomp::filter(Thread::Vcpu)?,
            seccomp::filter(Thread::Disks)?,
        );
        let vcpu = Arc::new(vcpu);
        let mut running = Running {
            name: self.name,
            exits: self.exits,
            shared: self.shared,
            ready: self.ready,
            since_ns: monotonic_ns(),
            reported_free: self.reported_free,
            vcpus: Vec::with_capacity(self.vcpus.len()),
            disks: None,
            stopped: false,
        };
        for (index, fd) in self.vcpus.into_iter().enumerate() {
            let (bus, shared, filter) = (self.bus.clone(), running.shared.clone(), vcpu.clone());
            let work = move || match seccomp::install(Thread::Vcpu, &filter) {
                Ok(()) => thread::run(fd, &bus, &shared),
                Err(error) => {
                    shared.finish(End::Failed(error.to_string()));
                    shared.gate.leave();
                }
            };
            let thread = std::thread::Builder::new()
                .name(format!("vcpu{index}"))
                .stack_size(STACK);
            running.vcpus.push(
                thread
                    .spawn(work)
                    .map_err(Failure::system("starting a thread"))?,
            );
        }
        if !self.disks.is_empty() {
            let call = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
                .map_err(Failure::system("making an event"))?;
            let mut disks = self.disks;
            disks
                .watch_other(&call)
                .map_err(Failure::system("watching an event"))?;
            let (shared, own_call) = (
                running.shared.clone(),
                call.try_clone()
                    .map_err(Failure::system("sharing an event"))?,
            );
            let work = move || {
                if let Err(error) = seccomp::install(Thread::Disks, &disk) {
                    shared.finish(End::Failed(error.to_string()));
                }
                run_disks(&mut disks, &own_call, &shared);
            };
            let thread = std::thread::Builder::new()
                .name("disks".to_owned())
                .stack_size(STACK);
            running.disks = Some(call);
            thread
                .spawn(work)
                .map_err(Failure::system("starting a thread"))?;
        }
        seccomp::install(Thread::Main, &main)?;
        running.shared.gate.open();
        running.serve(self.devices, self.api, &self.control)
    }
}

fn run_disks(disks: &mut Worker, call: &EventFd, shared: &Shared) {
    loop {
        shared.gate.pass();
        match disks.turn() {
            Ok(true) => {
                let _ = call.read();
            }
            Ok(false) => {}
            Err(error) => {
                shared.finish(End::Failed(format!("waiting for disk requests: {error}")));
                shared.gate.leave();
                return;
            }
        }
    }
}

fn place(index: usize) -> DevicePlace {
    DevicePlace {
        address: bus::FIRST_DEVICE + index as u64 * REGISTERS_SIZE,
        size: REGISTERS_SIZE,
        line: LINES[index % LINES.len()],
    }
}

/// Connects a device's two events with the guest: one for all its queues, since looking at an empty queue costs less than an event.
fn connect(vm: &VmFd, transport: &Transport, index: usize) -> Result<(), Failure> {
    let place = place(index);
    vm.register_irqfd(transport.interrupt().event(), place.line)
        .map_err(Failure::kvm("connecting an interrupt"))?;
    let address = IoEventAddress::Mmio(place.address + u64::from(VIRTIO_MMIO_QUEUE_NOTIFY));
    vm.register_ioevent(transport.notify(), &address, NoDatamatch)
        .map_err(Failure::kvm("connecting a device"))
}

fn console(vm: &VmFd, file: File) -> Result<Console, Failure> {
    let console = Console::new(file).map_err(Failure::device("console"))?;
    let registered = console.with_interrupt(|event| vm.register_irqfd(event, bus::SERIAL_LINE));
    registered.map_err(Failure::kvm("connecting the console's interrupt"))?;
    Ok(console)
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // The clock begins at zero, and nanoseconds are a part of a second.
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
