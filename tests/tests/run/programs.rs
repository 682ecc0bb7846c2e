//! Programs as they were built for years, and what they take for granted. Each is a few instructions in an ELF file without sections
//! or libraries, made here.

use crate::setup;

/// `EM_386`, `EM_X86_64` of the ELF specification.
const I386: u16 = 3;
const X86_64: u16 = 62;
/// Where it is loaded; the code follows the headers.
const BASE: u32 = 0x0804_8000;

/// An executable with one segment that holds everything: ELF header, program header, `code` (System V ABI, chapters 4 and 5).
fn elf(machine: u16, code: &[u8]) -> Vec<u8> {
    let wide = machine == X86_64;
    let (header, program_header) = if wide { (64u16, 56u16) } else { (52, 32) };
    let start = u32::from(header) + u32::from(program_header);
    let size = start + u32::try_from(code.len()).expect("a few instructions");
    let mut file = vec![0x7f, b'E', b'L', b'F', if wide { 2 } else { 1 }, 1, 1];
    file.resize(16, 0);
    // An address or an offset: a word of the machine's.
    let word = |file: &mut Vec<u8>, value: u32| {
        file.extend(value.to_le_bytes());
        file.extend(&[0; 4][..if wide { 4 } else { 0 }]);
    };
    let half = |file: &mut Vec<u8>, value: u16| file.extend(value.to_le_bytes());
    half(&mut file, 2);
    half(&mut file, machine);
    file.extend(1u32.to_le_bytes());
    word(&mut file, BASE + start);
    word(&mut file, header.into());
    word(&mut file, 0);
    file.extend(0u32.to_le_bytes());
    for value in [header, program_header, 1, 0, 0, 0] {
        half(&mut file, value);
    }
    // PT_LOAD, readable and executable. The flags stand elsewhere in the wide one.
    let flags = 5u32.to_le_bytes();
    file.extend(1u32.to_le_bytes());
    if wide {
        file.extend(flags);
    }
    for value in [0, BASE, BASE, size, size] {
        word(&mut file, value);
    }
    if !wide {
        file.extend(flags);
    }
    word(&mut file, 0x1000);
    file.extend(code);
    file
}

/// Runs a program in a container with `options`; its exit code.
#[track_caller]
fn run(options: &[&str], program: &[u8]) -> Option<i32> {
    let (docker, busybox) = setup();
    let script = "cat > /program && chmod +x /program && exec /program";
    let command = [busybox.as_str(), "sh", "-c", script];
    let arguments = [&["run", "--rm", "-i"], options, &command].concat();
    let done = docker.run_with_input(&arguments, program);
    eprintln!("{done:?}");
    done.code
}

#[test]
fn a_32_bit_program_runs() {
    #[rustfmt::skip]
    let code = [
        0xb8, 1, 0, 0, 0,  // mov eax, 1 (exit)
        0xbb, 42, 0, 0, 0, // mov ebx, 42
        0xcd, 0x80,        // int 0x80
    ];
    assert_eq!(run(&[], &elf(I386, &code)), Some(42));
}

#[test]
fn a_program_that_calls_the_vsyscall_page_runs() {
    #[rustfmt::skip]
    let code = [
        0x48, 0xc7, 0xc0, 0x00, 0x04, 0x60, 0xff, // mov rax, 0xffffffffff600400 (time)
        0x31, 0xff,                               // xor edi, edi
        0xff, 0xd0,                               // call rax
        0x48, 0x85, 0xc0,                         // test rax, rax
        0x0f, 0x9f, 0xc0,                         // setg al
        0x0f, 0xb6, 0xf8,                         // movzx edi, al
        0xb8, 60, 0, 0, 0,                        // mov eax, 60 (exit)
        0x0f, 0x05,                               // syscall
    ];
    assert_eq!(
        run(&[], &elf(X86_64, &code)),
        Some(1),
        "the time is later than 0"
    );
}

#[test]
fn a_program_may_reserve_more_addresses_than_its_container_has_memory() {
    #[rustfmt::skip]
    let code = [
        0xb8, 9, 0, 0, 0,                         // mov eax, 9 (mmap)
        0x31, 0xff,                               // xor edi, edi
        0xbe, 0x00, 0x00, 0x80, 0x0c,             // mov esi, 200 MiB
        0xba, 3, 0, 0, 0,                         // mov edx, PROT_READ | PROT_WRITE
        0x41, 0xba, 0x22, 0, 0, 0,                // mov r10d, MAP_PRIVATE | MAP_ANONYMOUS
        0x49, 0xc7, 0xc0, 0xff, 0xff, 0xff, 0xff, // mov r8, -1
        0x45, 0x31, 0xc9,                         // xor r9d, r9d
        0x0f, 0x05,                               // syscall
        0x48, 0x85, 0xc0,                         // test rax, rax
        0x0f, 0x98, 0xc0,                         // sets al
        0x0f, 0xb6, 0xf8,                         // movzx edi, al
        0xb8, 60, 0, 0, 0,                        // mov eax, 60 (exit)
        0x0f, 0x05,                               // syscall
    ];
    assert_eq!(run(&["-m", "64m"], &elf(X86_64, &code)), Some(0));
}
