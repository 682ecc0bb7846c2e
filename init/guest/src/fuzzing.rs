//! What fuzzing reaches of this crate: what the host sends, and what a container's own files say.

use hearth_guest_protocol::{self as protocol, Acknowledge, Message, Request};

use super::user;

pub use super::processes::fuzzing::process;

/// Frames, as they come over a connection: a request, then acknowledgements. What is taken could have been sent.
pub fn request(mut bytes: &[u8]) {
    let Ok(Some(request)) = protocol::read::<Request>(&mut bytes) else {
        return;
    };
    again(&request);
    while let Ok(Some(acknowledge)) = protocol::read::<Acknowledge>(&mut bytes) {
        again(&acknowledge);
    }
}

fn again<T: Message + PartialEq + std::fmt::Debug>(message: &T) {
    let frame = protocol::encode(message).expect("a message that was read");
    let read = protocol::read::<T>(&mut frame.as_slice()).expect("a frame that was written");
    assert_eq!(read.as_ref(), Some(message));
}

/// A user and its groups, a line each for the two, then the container's passwd and group, a NUL between them.
pub fn user(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.splitn(3, '\n');
    let user = lines.next().unwrap_or_default();
    let groups: Vec<String> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let files = lines.next().unwrap_or_default();
    let (passwd, group) = files.split_once('\0').unwrap_or((files, ""));
    if let Ok(identity) = user::resolve(user, &groups, passwd, group) {
        // As the kernel takes them: none is "leave it as it is".
        assert!(identity.uid != u32::MAX && identity.gid != u32::MAX);
        assert_eq!(identity.groups.first(), Some(&identity.gid));
    }
}
