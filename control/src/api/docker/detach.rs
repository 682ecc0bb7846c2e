//! The keys that end an attachment and leave the process alone. docker has the server watch for them, in what a client sends to a
//! terminal.

use super::errors::ApiError;

/// What docker uses where nobody says otherwise: ctrl-p, ctrl-q.
const DEFAULT: [u8; 2] = [16, 17];

/// Watches input for the keys; holds back what may be their beginning.
#[derive(Debug, Clone)]
pub struct DetachKeys {
    keys: Vec<u8>,
    /// The last bytes of input that are the first of `keys`, not passed on yet.
    held: Vec<u8>,
}

impl DetachKeys {
    /// As clients write them: `ctrl-p,ctrl-q`, `ctrl-@`, `a`, separated by commas. None: docker's own.
    pub fn parse(text: Option<&str>) -> Result<Self, ApiError> {
        let keys = match text {
            None => DEFAULT.to_vec(),
            Some(text) => text
                .split(',')
                .map(key)
                .collect::<Option<Vec<u8>>>()
                .ok_or_else(|| {
                    ApiError::bad_request(format!(
                        "Invalid detach keys ({text}) provided: write them as ctrl-p,ctrl-q"
                    ))
                })?,
        };
        Ok(Self {
            keys,
            held: Vec::new(),
        })
    }

    /// What of the input is for the process, and whether the keys were complete; what follows them is nobody's.
    pub fn pass(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        let mut output = Vec::with_capacity(input.len());
        for &byte in input {
            self.held.push(byte);
            // What is held must be a beginning of the keys: give up bytes from its front until it is.
            let surplus = (0..=self.held.len())
                .find(|&from| self.keys.starts_with(&self.held[from..]))
                .unwrap_or(0);
            output.extend(self.held.drain(..surplus));
            if self.held.len() == self.keys.len() {
                return (output, true);
            }
        }
        (output, false)
    }
}

fn key(text: &str) -> Option<u8> {
    match (text.strip_prefix("ctrl-"), text.as_bytes()) {
        (Some(name), _) => match name.as_bytes() {
            [letter @ b'a'..=b'z'] => Some(letter - b'a' + 1),
            b"@" => Some(0),
            b"[" => Some(27),
            b"\\" => Some(28),
            b"]" => Some(29),
            b"^" => Some(30),
            b"_" => Some(31),
            _ => None,
        },
        (None, [byte]) => Some(*byte),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_usual_keys_detach_even_in_pieces() {
        let mut keys = DetachKeys::parse(None).unwrap();
        assert_eq!(keys.pass(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(keys.pass(b"\x11lost"), (Vec::new(), true));
    }

    #[test]
    fn a_false_start_is_passed_on() {
        let mut keys = DetachKeys::parse(None).unwrap();
        assert_eq!(keys.pass(b"\x10x\x11"), (b"\x10x\x11".to_vec(), false));
        assert_eq!(keys.pass(b"\x10\x10\x11"), (b"\x10".to_vec(), true));
        let mut keys = DetachKeys::parse(Some("a,a,b")).unwrap();
        assert_eq!(keys.pass(b"aaab"), (b"a".to_vec(), true));
    }

    #[test]
    fn keys_are_read_as_docker_reads_them() {
        assert_eq!(
            DetachKeys::parse(Some("ctrl-@,ctrl-z,q")).unwrap().keys,
            [0, 26, b'q']
        );
        for bad in ["ctrl-", "ctrl-pp", "ab", "ctrl-p,"] {
            assert!(DetachKeys::parse(Some(bad)).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost_before_the_keys(input in proptest::collection::vec(14u8..19, 0..40), cut in 0usize..40) {
            let mut keys = DetachKeys::parse(None).unwrap();
            let (first, second) = input.split_at(cut.min(input.len()));
            let (mut passed, mut detached) = keys.pass(first);
            if !detached {
                let (rest, then) = keys.pass(second);
                passed.extend(rest);
                detached = then;
            }
            let found = input.windows(2).position(|w| w == DEFAULT);
            prop_assert_eq!(detached, found.is_some());
            match found {
                Some(at) => prop_assert_eq!(passed, &input[..at]),
                None => {
                    passed.extend(&keys.held);
                    prop_assert_eq!(passed, input);
                }
            }
        }
    }
}
