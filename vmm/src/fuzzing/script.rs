//! An input as a sequence of steps. What is missing at its end is zero.

/// Steps of one input: what a device does in each is bounded, and so is the whole then.
const MOST_STEPS: usize = 64;

pub(super) struct Script<'b> {
    rest: &'b [u8],
    steps: usize,
}

impl<'b> Script<'b> {
    pub(super) fn new(bytes: &'b [u8]) -> Self {
        Self {
            rest: bytes,
            steps: 0,
        }
    }

    /// The first byte of the next step.
    pub(super) fn step(&mut self) -> Option<u8> {
        self.steps += 1;
        (self.steps <= MOST_STEPS && !self.rest.is_empty()).then(|| self.byte())
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub(super) fn short(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(super) fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub(super) fn long(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// Some bytes, behind how many they are.
    pub(super) fn bytes(&mut self) -> &'b [u8] {
        let length = usize::from(self.byte());
        self.take(length)
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let given = self.take(N);
        array[..given.len()].copy_from_slice(given);
        array
    }

    fn take(&mut self, length: usize) -> &'b [u8] {
        let (taken, rest) = self.rest.split_at(length.min(self.rest.len()));
        self.rest = rest;
        taken
    }
}
