//! The guest's memory as an ELF file: code, script, and whatever the script's author has put beside them.

/// Where the one segment lies, and the code at its beginning.
const BASE: u64 = 0x10_0000;
/// Page directory for the fourth GiB, where the devices are.
const DEVICES_DIRECTORY: u64 = BASE + 0x1000;
const SCRIPT: u64 = BASE + 0x2000;
/// Free for queues and what they point to.
pub const FREE: u64 = BASE + 0x1_0000;
const END: u64 = BASE + 0x8_0000;

/// The monitor maps the first GiB only; this is the fourth entry of its second level (`PAGE_TABLES` in the monitor's `boot`).
const FOURTH_GIB: u64 = 0xa018;
const PRESENT_WRITABLE: u32 = 3;
/// Present, writable, uncached, large.
const DEVICE_PAGE: u64 = 0x93;
const LARGE_PAGE: u64 = 2 << 20;

/// What a step of the script does with its address and its value.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
enum Operation {
    /// Stores 32 bits.
    Store = 0,
    /// Adds to 16 bits.
    Add = 1,
    /// Goes on at the address.
    Jump = 2,
    /// Copies 32 bits from where the value points.
    Copy = 3,
    /// Waits until the 16 bits here and where the value points are equal.
    Wait = 4,
}

/// An interpreter of scripts, whose address is at byte 2. A step is an address, a value and an operation: 16 bytes.
#[rustfmt::skip]
const CODE: [u8; 69] = [
    0x48, 0xbe, 0, 0, 0, 0, 0, 0, 0, 0, // 00       mov rsi, script
    0x48, 0x8b, 0x3e,                   // 0a next: mov rdi, [rsi]
    0x8b, 0x46, 0x08,                   // 0d       mov eax, [rsi+8]
    0x8b, 0x4e, 0x0c,                   // 10       mov ecx, [rsi+12]
    0x48, 0x83, 0xc6, 0x10,             // 13       add rsi, 16
    0x83, 0xf9, 0x01,                   // 17       cmp ecx, 1
    0x74, 0x0e,                         // 1a       je add
    0x72, 0x11,                         // 1c       jb store
    0x83, 0xf9, 0x03,                   // 1e       cmp ecx, 3
    0x74, 0x10,                         // 21       je copy
    0x77, 0x14,                         // 23       ja wait
    0x48, 0x89, 0xfe,                   // 25       mov rsi, rdi
    0xeb, 0xe0,                         // 28       jmp next
    0x66, 0x01, 0x07,                   // 2a add:  add [rdi], ax
    0xeb, 0xdb,                         // 2d       jmp next
    0x89, 0x07,                         // 2f store: mov [rdi], eax
    0xeb, 0xd7,                         // 31       jmp next
    0x8b, 0x10,                         // 33 copy: mov edx, [rax]
    0x89, 0x17,                         // 35       mov [rdi], edx
    0xeb, 0xd1,                         // 37       jmp next
    0xf3, 0x90,                         // 39 wait: pause
    0x66, 0x8b, 0x17,                   // 3b       mov dx, [rdi]
    0x66, 0x3b, 0x10,                   // 3e       cmp dx, [rax]
    0x75, 0xf6,                         // 41       jne wait
    0xeb, 0xc5,                         // 43       jmp next
];

/// See the module.
pub struct Image {
    memory: Vec<u8>,
    script: u64,
}

impl Image {
    /// A guest whose script begins by making the devices reachable.
    pub fn new() -> Self {
        let mut image = Self {
            memory: vec![0; (END - BASE) as usize],
            script: SCRIPT,
        };
        image.put(BASE, &CODE);
        image.put(BASE + 2, &SCRIPT.to_le_bytes());
        for (index, at) in (DEVICES_DIRECTORY..SCRIPT).step_by(8).enumerate() {
            let page = (3 << 30) + index as u64 * LARGE_PAGE;
            image.put(at, &(page | DEVICE_PAGE).to_le_bytes());
        }
        image.store(FOURTH_GIB, DEVICES_DIRECTORY as u32 | PRESENT_WRITABLE);
        image
    }

    /// Has `bytes` lie at `address` from the beginning.
    pub fn put(&mut self, address: u64, bytes: &[u8]) {
        let at = (address - BASE) as usize;
        self.memory[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn step(&mut self, operation: Operation, address: u64, value: u32) {
        assert!(self.script < FREE, "the script is too long");
        self.put(self.script, &address.to_le_bytes());
        self.put(self.script + 8, &value.to_le_bytes());
        self.put(self.script + 12, &(operation as u32).to_le_bytes());
        self.script += 16;
    }

    /// Next: stores `value` at `address`.
    pub fn store(&mut self, address: u64, value: u32) {
        self.step(Operation::Store, address, value);
    }

    /// Next: adds `value` to the 16 bits at `address`.
    pub fn add(&mut self, address: u64, value: u16) {
        self.step(Operation::Add, address, value.into());
    }

    /// Next: copies 32 bits. `from` is below 4 GiB, as all of the image is.
    pub fn copy(&mut self, from: u64, to: u64) {
        self.step(Operation::Copy, to, from as u32);
    }

    /// Next: waits until the 16 bits at two addresses are equal.
    pub fn wait_equal(&mut self, one: u64, other: u64) {
        self.step(Operation::Wait, one, other as u32);
    }

    /// The place of the next step.
    pub fn here(&self) -> u64 {
        self.script
    }

    /// Next: goes on at a place of the script.
    pub fn jump(&mut self, to: u64) {
        self.step(Operation::Jump, to, 0);
    }

    /// The ELF file.
    pub fn elf(&self) -> Vec<u8> {
        const OFFSET: u64 = 0x1000;
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        // Executable, x86-64; entry, program headers at once, no sections; sizes; one program header.
        for half in [2u16, 62] {
            file.extend(half.to_le_bytes());
        }
        file.extend(1u32.to_le_bytes());
        for word in [BASE, 64, 0] {
            file.extend(word.to_le_bytes());
        }
        file.extend(0u32.to_le_bytes());
        for half in [64u16, 56, 1, 0, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        // PT_LOAD, all permissions; offset, addresses, sizes, alignment.
        for half in [1u32, 7] {
            file.extend(half.to_le_bytes());
        }
        let size = self.memory.len() as u64;
        for word in [OFFSET, BASE, BASE, size, size, OFFSET] {
            file.extend(word.to_le_bytes());
        }
        file.resize(OFFSET as usize, 0);
        file.extend(&self.memory);
        file
    }
}
