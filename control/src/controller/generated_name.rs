//! Names for containers that were given none.

use crate::state::{ContainerId, ContainerName};

const HOW: [&str; 32] = [
    "amber",
    "ashen",
    "blazing",
    "bright",
    "burning",
    "calm",
    "cosy",
    "crackling",
    "dancing",
    "drowsy",
    "dusky",
    "faint",
    "fierce",
    "flaring",
    "gentle",
    "gleaming",
    "glowing",
    "golden",
    "lively",
    "mellow",
    "merry",
    "quiet",
    "rosy",
    "ruddy",
    "scarlet",
    "smoky",
    "snug",
    "steady",
    "tawny",
    "tender",
    "warm",
    "wild",
];
const WHAT: [&str; 32] = [
    "andiron", "ash", "bellows", "birch", "blaze", "brazier", "candle", "cauldron", "chimney",
    "cinder", "coal", "ember", "flame", "flint", "grate", "hob", "hearth", "ingle", "kettle",
    "kiln", "kindling", "lantern", "log", "mantel", "match", "oven", "poker", "pyre", "spark",
    "stove", "tinder", "torch",
];
/// Beside the words: 32 × 32 × 100 names.
const NUMBERS: u64 = 100;

/// A name that depends on the id, and on how many were tried before.
pub(super) fn generate(id: &ContainerId, tried: u64) -> ContainerName {
    // Sixteen hexadecimal digits are a u64.
    let seed = u64::from_str_radix(&id.to_string()[..16], 16).unwrap_or(0);
    let mixed = seed.wrapping_add(tried.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let (how, what) = (
        HOW[(mixed >> 59) as usize],
        WHAT[(mixed >> 54 & 31) as usize],
    );
    let number = mixed % NUMBERS;
    let text = if number == 0 {
        format!("{how}_{what}")
    } else {
        format!("{how}_{what}{number}")
    };
    text.parse()
        .expect("words of letters, an underscore and digits are a container's name")
}
