//! A microVM: put together, run, commanded.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, NoDatamatch, VcpuFd, VmFd};
use virtio_bindings::virtio_mmio::VIRTIO_MMIO_QUEUE_NOTIFY;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
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
use crate::memory::{self, GuestMemory};
use crate::net::{Net, tun::Tun};
use crate::rng::Rng;
use crate::running::{API, ENDED, Running};
use crate::vcpu::statistics::Exits;
use crate::vcpu::thread::{self, End, Shared};
use crate::vcpu::{cpuid, registers};
use crate::virtio::Device;
use crate::virtio::mmio::{REGISTERS_SIZE, Transport};
use crate::vsock::{MOST_CONNECTIONS, Vsock};
use crate::worker::Worker;

/// Three pages that Intel's CPUs need for real mode, below the BIOS's place at the end of 4 GiB.
const TSS_ADDRESS: usize = 0xfffb_d000;
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

fn kvm<T>(doing: &'static str, result: Result<T, kvm_ioctls::Error>) -> Result<T, Failure> {
    result.map_err(|source| Failure::Kvm { doing, source })
}

fn system<T>(doing: &'static str, result: std::io::Result<T>) -> Result<T, Failure> {
    result.map_err(|source| Failure::System { doing, source })
}

fn device<T>(name: impl Into<String>, result: std::io::Result<T>) -> Result<T, Failure> {
    result.map_err(|source| Failure::Device {
        device: name.into(),
        source,
    })
}

impl Machine {
    /// Makes the machine, loads the guest, and locks the process in. Called once, while there is one thread.
    pub fn build(given: Inheritance) -> Result<Self, Failure> {
        let config = &given.config;
        let vm = kvm("making a virtual machine", given.kvm.create_vm())?;
        let memory = memory::create(config.memory_mib)?;
        add_memory(&vm, &memory)?;
        kvm("placing the task state", vm.set_tss_address(TSS_ADDRESS))?;
        kvm("making interrupt controllers", vm.create_irq_chip())?;

        let (ready, reported_free) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut devices = system("making an epoll", Worker::new())?;
        let mut disks = system("making an epoll", Worker::new())?;
        let mut all: Vec<Arc<Transport>> = Vec::new();
        let mut add = |worker: &mut Worker, name: &str, made: Box<dyn Device>| {
            let transport = Arc::new(device(name, Transport::new(made, memory.clone()))?);
            connect(&vm, &transport, all.len())?;
            device(name, worker.add(transport.clone()))?;
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
            device(name.as_str(), check_disk(&file))?;
            let block = device(name.as_str(), Block::new(file, disk.read_only))?;
            add(&mut disks, &name, Box::new(block))?;
        }
        if let (Some(network), Some(tun)) = (&config.network, given.tun) {
            let tun = device("network", Tun::new(tun))?;
            let net = device("network", Net::new(network, tun, &devices.watcher()))?;
            add(&mut devices, "network", Box::new(net))?;
        }
        let vsock = device(
            "vsock",
            Vsock::new(given.vsock, ready.clone(), devices.watcher()),
        )?;
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
        let vcpus = make_vcpus(&given.kvm, &vm, config.vcpus, entry)?;
        let exits = vcpus.iter().map(Exits::of).collect();

        let threads = vcpus.len() + usize::from(!disks.is_empty());
        let shared = Arc::new(system("making an event", Shared::new(Gate::new(threads)))?);
        let control = Arc::new(system("making an epoll", Epoll::new())?);
        let watcher = |source| Watcher::new(control.clone(), source);
        let api = device("command socket", Server::new(given.api, watcher(API)))?;
        system(
            "watching for the end",
            watcher(ENDED).add(&shared.ended, 0, EventSet::IN),
        )?;
        system(
            "watching the command socket",
            devices.watch_other(control.as_ref()),
        )?;

        let limits = Limits {
            descriptors: MOST_CONNECTIONS as u64 + OTHER_DESCRIPTORS,
            file_size: largest_disk.unwrap_or(0).max(LOG_ROOM),
            threads: 1 + threads as u64 + KVM_THREADS,
        };
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
            running
                .vcpus
                .push(system("starting a thread", thread.spawn(work))?);
        }
        if !self.disks.is_empty() {
            let call = system("making an event", EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC))?;
            let mut disks = self.disks;
            system("watching an event", disks.watch_other(&call))?;
            let (shared, own_call) = (
                running.shared.clone(),
                system("sharing an event", call.try_clone())?,
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
            system("starting a thread", thread.spawn(work))?;
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

fn add_memory(vm: &VmFd, memory: &GuestMemory) -> Result<(), Failure> {
    for (slot, region) in memory.iter().enumerate() {
        let region = kvm_userspace_memory_region {
            slot: slot as u32,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the region is mapped, belongs to nothing else, and stays mapped as long as the machine.
        kvm("adding memory", unsafe {
            vm.set_user_memory_region(region)
        })?;
    }
    Ok(())
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
    kvm(
        "connecting an interrupt",
        vm.register_irqfd(transport.interrupt().event(), place.line),
    )?;
    let address = IoEventAddress::Mmio(place.address + u64::from(VIRTIO_MMIO_QUEUE_NOTIFY));
    kvm(
        "connecting a device",
        vm.register_ioevent(transport.notify(), &address, NoDatamatch),
    )
}

fn console(vm: &VmFd, file: File) -> Result<Console, Failure> {
    let console = device("console", Console::new(file))?;
    let registered = console.with_interrupt(|event| vm.register_irqfd(event, bus::SERIAL_LINE));
    kvm("connecting the console's interrupt", registered)?;
    Ok(console)
}

fn make_vcpus(
    kvm_: &Kvm,
    vm: &VmFd,
    count: u8,
    entry: boot::Entry,
) -> Result<Vec<VcpuFd>, Failure> {
    let supported = kvm(
        "asking for CPUID",
        kvm_.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES),
    )?;
    let tsc_deadline = kvm_.check_extension(Cap::TscDeadlineTimer);
    let mut vcpus = Vec::with_capacity(count.into());
    for index in 0..count {
        let vcpu = kvm("making a virtual CPU", vm.create_vcpu(index.into()))?;
        let cpuid = cpuid::for_vcpu(&supported, index, count, tsc_deadline);
        kvm("setting CPUID", vcpu.set_cpuid2(&cpuid))?;
        kvm("setting registers", registers::set_model_specific(&vcpu))?;
        if index == 0 {
            kvm("setting registers", registers::set_entry(&vcpu, entry))?;
        }
        vcpus.push(vcpu);
    }
    Ok(vcpus)
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // The clock begins at zero, and nanoseconds are a part of a second.
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
