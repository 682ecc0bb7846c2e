//! Names of execs: 64 hexadecimal digits, of which the first 16 are the node's, so that any node knows whom to ask.

use super::ExecId;
use crate::state::NodeId;

/// Digits of a node's id.
const NODE_DIGITS: usize = 16;

/// The name of an exec on a node.
pub fn exec_id(node: NodeId, random: [u8; 24]) -> ExecId {
    format!("{node}{}", hex::encode(random))
}

/// The node that an exec is on; None: it names none.
pub fn node_of_exec(id: &str) -> Option<NodeId> {
    let (node, rest) = id.split_at_checked(NODE_DIGITS)?;
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
    if rest.len() != 2 * 24 || !digits(node) || !digits(rest) {
        return None;
    }
    u64::from_str_radix(node, 16).ok().map(NodeId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_execs_name_tells_its_node_and_nothing_else_does() {
        let id = exec_id(NodeId(0xfeed), [7; 24]);
        assert_eq!((id.len(), node_of_exec(&id)), (64, Some(NodeId(0xfeed))));
        for other in [
            "",
            "feed",
            &id[1..],
            &format!("+{}", &id[1..]),
            &"é".repeat(32),
        ] {
            assert_eq!(node_of_exec(other), None, "{other}");
        }
    }
}
