//! What strangers say on the peers' port, before anybody knows who they are; and what a node that asks to join is told.

use super::discovery::Announced;
use super::join::{Hello, Reply, Request};
use crate::state::encoding;
use crate::trust::Token;
use crate::trust::revocation::Crl;

/// One message; the first byte says which. What is understood can be said again.
pub fn stranger(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else {
        return;
    };
    match kind % 5 {
        0 => {
            if let Ok(hello) = encoding::decode::<Hello>(rest) {
                token(&hello.token);
            }
        }
        1 => {
            if let Ok(request) = encoding::decode::<Request>(rest) {
                token(&request.token);
                let again = encoding::encode(&request).expect("it was read");
                let again: Request = encoding::decode(&again).expect("it was written");
                assert_eq!((again.is, again.wanted), (request.is, request.wanted));
            }
        }
        2 => drop(encoding::decode::<Reply>(rest)),
        3 => drop(encoding::decode::<Announced>(rest)),
        _ => drop(Crl::parse(rest, "")),
    }
}

fn token(text: &str) {
    if let Ok(token) = text.parse::<Token>() {
        assert_eq!(token.to_string(), text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{NodeId, NodeIs, NodeWanted};

    /// `HEARTH_WRITE_SEEDS=1` writes them to `tests/fuzz/seeds/stranger`.
    #[test]
    fn the_seeds_are_what_nodes_say() {
        let text = format!("SWMTKN-1-{}-{}", "0".repeat(50), "1".repeat(25));
        let request = Request {
            token: text.clone(),
            node: NodeId(7),
            csr: vec![0x30, 0],
            is: NodeIs {
                hostname: "one".to_owned(),
                address: Some("192.0.2.1:2377".parse().unwrap()),
                ..NodeIs::default()
            },
            wanted: NodeWanted::default(),
        };
        let hello = Hello { token: text };
        let reply = Reply::Elsewhere {
            address: "192.0.2.1:2377".to_owned(),
        };
        let kinds = [
            ("hello", 0, encoding::encode(&hello).unwrap()),
            ("request", 1, encoding::encode(&request).unwrap()),
            ("reply", 2, encoding::encode(&reply).unwrap()),
        ];
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fuzz/seeds/stranger");
        for (name, kind, bytes) in kinds {
            let seed = [vec![kind], bytes].concat();
            stranger(&seed);
            let path = std::path::Path::new(folder).join(name);
            if std::env::var_os("HEARTH_WRITE_SEEDS").is_some() {
                std::fs::create_dir_all(folder).unwrap();
                std::fs::write(&path, &seed).unwrap();
            }
            assert_eq!(std::fs::read(path).unwrap(), seed, "{name}");
        }
    }
}
