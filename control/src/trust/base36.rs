//! Numbers of many bytes in base 36, as docker's tokens hold them: lower-case, padded with zeros to a fixed length.

/// 36: digits and lower-case letters.
const BASE: u32 = 36;

/// The bytes as a number, most significant first, in so many digits. The caller knows that they are enough.
pub(super) fn encode(bytes: &[u8], digits: usize) -> String {
    let mut number = bytes.to_vec();
    let mut text = vec!['0'; digits];
    for place in text.iter_mut().rev() {
        let mut rest = 0;
        for byte in &mut number {
            let value = (rest << 8) | u32::from(*byte);
            // A rest is below the base, so a quotient of it and eight more bits is below 2⁸.
            *byte = (value / BASE) as u8;
            rest = value % BASE;
        }
        *place = char::from_digit(rest, BASE).expect("a rest is below the base");
    }
    debug_assert!(number.iter().all(|byte| *byte == 0), "too few digits");
    text.into_iter().collect()
}

/// The number's bytes. None: not so many digits, others than these, or a number that needs more bytes.
pub(super) fn decode<const BYTES: usize>(text: &str, digits: usize) -> Option<[u8; BYTES]> {
    if text.len() != digits {
        return None;
    }
    let mut number = [0u8; BYTES];
    for character in text.bytes() {
        let digit = match character {
            b'0'..=b'9' => character - b'0',
            b'a'..=b'z' => character - b'a' + 10,
            _ => return None,
        };
        let mut carry = u32::from(digit);
        for byte in number.iter_mut().rev() {
            let value = u32::from(*byte) * BASE + carry;
            *byte = (value & 0xff) as u8;
            carry = value >> 8;
        }
        if carry != 0 {
            return None;
        }
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_round_trip(long in any::<[u8; 32]>(), short in any::<[u8; 16]>()) {
            prop_assert_eq!(decode::<32>(&encode(&long, 50), 50), Some(long));
            prop_assert_eq!(decode::<16>(&encode(&short, 25), 25), Some(short));
        }

        #[test]
        fn any_text_is_a_number_or_none(text in "[0-9a-zA-Zé]{25}") {
            if let Some(number) = decode::<16>(&text, 25) {
                prop_assert_eq!(encode(&number, 25), text);
            }
        }
    }

    #[test]
    fn the_largest_fits_and_one_more_does_not() {
        assert_eq!(encode(&[0xff; 16], 25), "f5lxx1zz5pnorynqglhzmsp33");
        assert_eq!(decode::<16>("f5lxx1zz5pnorynqglhzmsp34", 25), None);
        assert_eq!(encode(&[0, 0, 36], 4), "0010");
    }
}
