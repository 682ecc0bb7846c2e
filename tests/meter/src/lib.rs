//! A plugin of QEMU's emulator: how many instructions an emulated machine executes, and how often its processor wakes from a halt. That is
//! what an idle machine costs, whatever the computer that emulates it.
//!
//! ```text
//! qemu-system-x86_64 -accel tcg,thread=multi -plugin libhearth_meter.so,counts=FILE
//! FILE: instructions (u64, little-endian), wakes (likewise); 16 bytes that are there before, and may be read at any time
//! ```
//!
//! The interface is of `docs/devel/tcg-plugins.rst` and `qemu-plugin.h`, version 1 (QEMU 4.2 to 8.2).

use std::ffi::{CStr, c_char, c_int, c_void};
use std::fs::OpenOptions;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags};

/// What QEMU asks for before it calls anything.
#[unsafe(no_mangle)]
pub static qemu_plugin_version: c_int = 1;

/// `enum qemu_plugin_cb_flags`: the callback looks at no register.
const NO_REGISTERS: c_int = 0;

type Id = u64;

/// `struct qemu_plugin_tb`: instructions that are executed one after the other.
#[repr(C)]
struct Block {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: Id, callback: extern "C" fn(Id, *mut Block));
    fn qemu_plugin_tb_n_insns(block: *const Block) -> usize;
    fn qemu_plugin_register_vcpu_tb_exec_cb(
        block: *mut Block,
        callback: extern "C" fn(u32, *mut c_void),
        flags: c_int,
        data: *mut c_void,
    );
    fn qemu_plugin_register_vcpu_resume_cb(id: Id, callback: extern "C" fn(Id, u32));
}

/// The file, as it is in memory.
#[repr(C)]
struct Counts {
    instructions: AtomicU64,
    wakes: AtomicU64,
}

static COUNTS: OnceLock<&'static Counts> = OnceLock::new();

fn counts() -> Option<&'static Counts> {
    COUNTS.get().copied()
}

fn map(path: &str) -> std::io::Result<&'static Counts> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    if file.metadata()?.len() < size_of::<Counts>() as u64 {
        return Err(std::io::Error::other("it is too short for the counts"));
    }
    // SAFETY: new memory, nobody's before; it is never unmapped, is aligned to a page, and any bytes are a pair of numbers.
    unsafe {
        let at = rustix::mm::mmap(
            std::ptr::null_mut(),
            size_of::<Counts>(),
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
            &file,
            0,
        )?;
        Ok(&*at.cast::<Counts>())
    }
}

/// QEMU has loaded this. Any answer but 0 ends it.
///
/// # Safety
///
/// QEMU calls it, once, with `argc` C strings at `argv`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: Id,
    _info: *const c_void,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    let mut arguments = (0..usize::try_from(argc).unwrap_or(0)).filter_map(|at| {
        // SAFETY: as the caller promises.
        let argument = unsafe { CStr::from_ptr(*argv.add(at)) };
        argument.to_str().ok()
    });
    let Some(path) = arguments.find_map(|it| it.strip_prefix("counts=")) else {
        eprintln!("hearth-meter: counts=FILE is missing");
        return 1;
    };
    match map(path) {
        Ok(counts) => drop(COUNTS.set(counts)),
        Err(error) => {
            eprintln!("hearth-meter: {path}: {error}");
            return 1;
        }
    }
    // SAFETY: this is the time to register callbacks, and these live as long as the process.
    unsafe {
        qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
        qemu_plugin_register_vcpu_resume_cb(id, woken);
    }
    0
}

/// Has each execution of a block counted with as many instructions as it has.
extern "C" fn translated(_: Id, block: *mut Block) {
    // SAFETY: QEMU's block, for as long as this call takes. The number is no address, and nobody follows it.
    unsafe {
        let instructions = qemu_plugin_tb_n_insns(block);
        qemu_plugin_register_vcpu_tb_exec_cb(
            block,
            executed,
            NO_REGISTERS,
            std::ptr::without_provenance_mut(instructions),
        );
    }
}

extern "C" fn executed(_: u32, instructions: *mut c_void) {
    if let Some(counts) = counts() {
        let instructions = instructions.addr() as u64;
        counts
            .instructions
            .fetch_add(instructions, Ordering::Relaxed);
    }
}

extern "C" fn woken(_: Id, _: u32) {
    if let Some(counts) = counts() {
        counts.wakes.fetch_add(1, Ordering::Relaxed);
    }
}
