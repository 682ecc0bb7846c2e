//! Which devices the processes of a container may open: docker's list, kept by a BPF program at the container's cgroup (cgroup v2 has
//! no other way; `BPF_PROG_TYPE_CGROUP_DEVICE` of bpf(2)).
//!
//! A container's root may make any device node, among them that of a disk of its machine. The kernel asks the program when a node
//! is made and whenever one is opened, whoever has made it and however it is reached.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Character devices that may be read and written, as in docker: major and minor number
/// (Documentation/admin-guide/devices.txt); None: all of that major number.
const ALLOWED: [(u32, Option<u32>); 10] = [
    // null, zero, full, random, urandom
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    // tty, console, ptmx
    (5, Some(0)),
    (5, Some(1)),
    (5, Some(2)),
    // net/tun
    (10, Some(200)),
    // pts
    (136, None),
];

/// Lets the processes in `cgroup`, and in groups below it, make any device node and use [`ALLOWED`].
pub fn attach(cgroup: BorrowedFd<'_>) -> io::Result<()> {
    let program = load(&program(&ALLOWED))?;
    attach_program(cgroup, &program)
}

/// `struct bpf_insn` of linux/bpf.h.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    /// Destination in the low four bits, source in the high ones.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// The operations in use (linux/bpf.h, linux/bpf_common.h).
mod code {
    /// `BPF_LDX | BPF_MEM | BPF_W`
    pub const LOAD_WORD: u8 = 0x61;
    /// `BPF_ALU64 | BPF_AND | BPF_K`
    pub const AND: u8 = 0x57;
    /// `BPF_ALU64 | BPF_RSH | BPF_K`
    pub const SHIFT_RIGHT: u8 = 0x77;
    /// `BPF_ALU64 | BPF_MOV | BPF_X`
    pub const COPY: u8 = 0xbf;
    /// `BPF_ALU64 | BPF_MOV | BPF_K`
    pub const SET: u8 = 0xb7;
    /// `BPF_JMP | BPF_JEQ | BPF_K`
    pub const JUMP_IF: u8 = 0x15;
    /// `BPF_JMP | BPF_JNE | BPF_K`
    pub const JUMP_UNLESS: u8 = 0x55;
    /// `BPF_JMP | BPF_EXIT`
    pub const EXIT: u8 = 0x95;
}

/// `BPF_DEVCG_ACC_MKNOD`: in the upper half of the access type, alone where a node is made.
const MAKE_NODE: i32 = 1;
/// `BPF_DEVCG_DEV_CHAR`, in the lower half.
const CHARACTER: i32 = 2;

/// The program. It is called with a `struct bpf_cgroup_dev_ctx` (access type, major, minor; words) in register 1, and answers 1
/// (yes) or 0 (no) in register 0.
fn program(allowed: &[(u32, Option<u32>)]) -> Vec<Instruction> {
    let instruction = |code, destination: u8, source: u8, offset, immediate| Instruction {
        code,
        registers: destination | source << 4,
        offset,
        immediate,
    };
    let jump_over = |code, register, value: u32, over| {
        // Numbers of devices have 12 and 20 bits.
        instruction(code, register, 0, over, value as i32)
    };
    let exit = instruction(code::EXIT, 0, 0, 0, 0);
    let mut program = vec![
        instruction(code::SET, 0, 0, 0, 1),
        instruction(code::LOAD_WORD, 2, 1, 0, 0),
        instruction(code::COPY, 3, 2, 0, 0),
        instruction(code::SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(code::JUMP_UNLESS, 3, 0, 1, MAKE_NODE),
        exit,
        instruction(code::AND, 2, 0, 0, 0xffff),
        instruction(code::SET, 0, 0, 0, 0),
        instruction(code::JUMP_IF, 2, 0, 1, CHARACTER),
        exit,
        instruction(code::SET, 0, 0, 0, 1),
        instruction(code::LOAD_WORD, 2, 1, 4, 0),
        instruction(code::LOAD_WORD, 3, 1, 8, 0),
    ];
    for &(major, minor) in allowed {
        if let Some(minor) = minor {
            program.push(jump_over(code::JUMP_UNLESS, 2, major, 2));
            program.push(jump_over(code::JUMP_UNLESS, 3, minor, 1));
        } else {
            program.push(jump_over(code::JUMP_UNLESS, 2, major, 1));
        }
        program.push(exit);
    }
    program.extend([instruction(code::SET, 0, 0, 0, 0), exit]);
    program
}

/// `BPF_PROG_LOAD`, `BPF_PROG_ATTACH` of `enum bpf_cmd`.
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
/// `BPF_PROG_TYPE_CGROUP_DEVICE` of `enum bpf_prog_type`.
const TYPE_CGROUP_DEVICE: u32 = 15;
/// `BPF_CGROUP_DEVICE` of `enum bpf_attach_type`.
const AT_CGROUP_DEVICE: u32 = 6;
/// `BPF_F_ALLOW_MULTI`: groups below may have further programs (containers in a container), and each must say yes.
const ALLOW_MULTI: u32 = 2;

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    /// The beginning of `union bpf_attr` for `BPF_PROG_LOAD`; what follows may be left out.
    #[repr(C)]
    struct Load {
        kind: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
    }
    let load = Load {
        kind: TYPE_CGROUP_DEVICE,
        instruction_count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        // It calls no function of the kernel's that would ask for another.
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: the attributes and what they point to live until the call returns.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of::<Load>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

fn attach_program(cgroup: BorrowedFd<'_>, program: &OwnedFd) -> io::Result<()> {
    /// The beginning of `union bpf_attr` for `BPF_PROG_ATTACH`.
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
    }
    let attach = Attach {
        target: cgroup.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: AT_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: the attributes live until the call returns.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROG_ATTACH,
            &raw const attach,
            size_of::<Attach>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const READ: u32 = 2;
    const WRITE: u32 = 4;
    const BLOCK: u32 = 1;
    const CHAR: u32 = CHARACTER as u32;

    /// Runs a program as the kernel would, as far as it uses the machine.
    fn run(program: &[Instruction], context: [u32; 3]) -> bool {
        let mut registers = [0u64; 11];
        let mut at = 0;
        loop {
            let now = program[at];
            at += 1;
            let (to, from) = (
                usize::from(now.registers & 15),
                usize::from(now.registers >> 4),
            );
            let value = now.immediate as u64;
            match now.code {
                code::LOAD_WORD => {
                    assert_eq!(from, 1, "only the context is memory");
                    registers[to] = context[usize::try_from(now.offset).unwrap() / 4].into();
                }
                code::AND => registers[to] &= value,
                code::SHIFT_RIGHT => registers[to] >>= value,
                code::COPY => registers[to] = registers[from],
                code::SET => registers[to] = value,
                code::JUMP_IF | code::JUMP_UNLESS => {
                    if (registers[to] == value) == (now.code == code::JUMP_IF) {
                        at += usize::try_from(now.offset).unwrap();
                    }
                }
                code::EXIT => return registers[0] != 0,
                other => panic!("no such operation: {other:#x}"),
            }
        }
    }

    fn may(access: u32, kind: u32, major: u32, minor: u32) -> bool {
        run(&program(&ALLOWED), [access << 16 | kind, major, minor])
    }

    #[test]
    fn what_every_container_has_is_open_and_disks_are_not() {
        for (major, minor) in [(1, 3), (1, 9), (5, 2), (136, 0), (136, 77_000)] {
            assert!(may(READ | WRITE, CHAR, major, minor), "{major}:{minor}");
        }
        // Memory, ports, a serial line; vda and a loop device.
        for (kind, major, minor) in [(CHAR, 1, 1), (CHAR, 1, 4), (CHAR, 4, 64)] {
            assert!(!may(READ, kind, major, minor), "{major}:{minor}");
        }
        for (major, minor) in [(254, 0), (7, 0), (1, 3), (136, 0)] {
            assert!(!may(READ, BLOCK, major, minor), "{major}:{minor}");
        }
    }

    #[test]
    fn the_kernel_takes_the_program() {
        match load(&program(&ALLOWED)) {
            Ok(_) => {}
            Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => {
                eprintln!("skipped: no right to load programs: {e}");
            }
            Err(e) => panic!("{e}"),
        }
    }

    proptest! {
        #[test]
        fn any_node_may_be_made_and_only_listed_ones_opened(access in 1u32..8, block in any::<bool>(), major in 0u32..300, minor in 0u32..300) {
            let listed = ALLOWED.iter().any(|&(m, n)| m == major && n.is_none_or(|n| n == minor));
            let kind = if block { BLOCK } else { CHAR };
            prop_assert_eq!(may(access, kind, major, minor), access == 1 || (!block && listed));
        }
    }
}
