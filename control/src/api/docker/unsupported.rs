//! What docker's specification has and this node does not: said, and told apart from what no docker has.

use hyper::Method;

use super::answer::Answer;
use super::errors::ApiError;
use super::router::nothing_there;

/// Answers requests that have no handler.
pub(super) fn answer(method: &Method, path: &[&str]) -> Answer {
    let (get, post, put, delete, head) = (
        method == Method::GET,
        method == Method::POST,
        method == Method::PUT,
        method == Method::DELETE,
        method == Method::HEAD,
    );
    let what = match path {
        ["containers", _, "attach", "ws"] if get => "attaching over a web socket is",
        ["containers", _, "changes"] if get => "listing a container's changed files is",
        ["containers", _, "export"] if get => "exporting a container's files is",
        ["containers", _, "stats"] if get => "resource usage of containers is",
        ["containers", _, "update"] if post => "changing a container's resources is",
        ["containers", _, "pause" | "unpause"] if post => "pausing containers is",
        ["containers", _, "archive"] if get || put || head => {
            "copying files into or out of containers is"
        }
        ["commit"] if post => "making images from containers is",
        ["images", .., "get"] if get => "saving images is",
        ["images", .., "push"] if post => "pushing images is",
        ["images", .., "attestations"] if get => "listing attestations is",
        ["build"] | ["build", "cancel"] if post => "building images is",
        ["session" | "grpc"] if post => "BuildKit is",
        ["distribution", .., "json"] if get => "asking a registry about an image is",
        ["networks", "create"] if post => "networks of one's own are",
        ["networks", _, "connect" | "disconnect"] if post => {
            "connecting a container to further networks is"
        }
        ["networks", _] if delete => "removing the built-in networks is",
        ["volumes", "create"] if post => "volumes are",
        ["volumes", _] if put || delete => "volumes are",
        ["plugins", ..] => "plugins are",
        ["swarm", "init" | "join"] if post => "swarm mode is",
        ["swarm", "leave" | "update" | "unlock"] if post => return Err(no_swarm()),
        ["swarm"] | ["swarm", "unlockkey"] if get => return Err(no_swarm()),
        ["services" | "nodes" | "tasks" | "secrets" | "configs", ..] if get || post || delete => {
            return Err(no_swarm());
        }
        _ => return Err(nothing_there()),
    };
    Err(ApiError::unsupported(what))
}

/// docker's words of a node outside a swarm; clients take the status as the sign.
fn no_swarm() -> ApiError {
    ApiError::unavailable(
        "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_docker_has_is_told_from_what_nobody_has() {
        let message = |method: Method, path: &[&str]| {
            answer(&method, path).err().unwrap().message().to_owned()
        };
        assert_eq!(
            message(Method::GET, &["containers", "x", "stats"]),
            "resource usage of containers is not supported by Hearth yet"
        );
        assert_eq!(
            message(Method::POST, &["images", "a", "b", "push"]),
            "pushing images is not supported by Hearth yet"
        );
        assert!(message(Method::GET, &["nodes"]).starts_with("This node is not a swarm manager"));
        assert_eq!(
            message(Method::GET, &["containers", "x", "nothing"]),
            "page not found"
        );
        assert_eq!(message(Method::GET, &[""]), "page not found");
    }
}
