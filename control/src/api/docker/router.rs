//! The Engine API's operations: every one that docker's specification has, with the handler that answers it or the reason why there is
//! none. What isn't here is no operation of docker's.
//!
//! Rows name the specification's `operationId`: there is what the operation takes and gives (`api/docs/v1.53.yaml` in docker's sources,
//! whose version is [`super::version::MAXIMUM`]).

use std::future::Future;
use std::pin::Pin;

use hyper::Method;

use super::answer::Answer;
use super::call::Call;
use super::errors::ApiError;
use super::{containers, disk_usage, events, exec, images, networks, swarm, system, volumes};

/// A request's answer, being made.
type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// One operation.
struct Route {
    /// The specification's name for it.
    operation: &'static str,
    method: Method,
    /// Its path, with at most one parameter in braces.
    path: &'static str,
    does: Does,
}

/// What is done about an operation.
enum Does {
    /// The handler; its second argument is the path's parameter.
    Answer(fn(Call, String) -> Answering),
    /// Hearth lacks it: the subject of the sentence that says so.
    NotYet(&'static str),
    /// Hearth lacks it, as [`Does::NotYet`]; and docker itself refuses it on a node outside a swarm.
    InSwarm(&'static str),
}

/// Each row: method, path, operation, and what is done. The first row that fits counts.
macro_rules! routes {
    ($($method:ident $path:literal $operation:ident => $kind:ident($($does:tt)*);)*) => {
        &[$(Route {
            operation: stringify!($operation),
            method: Method::$method,
            path: $path,
            does: routes!(@$kind $($does)*),
        }),*]
    };
    (@answer |$call:pat_param, $parameter:pat_param| $handler:expr) => {
        Does::Answer(|$call, $parameter| Box::pin(async move { $handler }))
    };
    (@not_yet $what:literal) => { Does::NotYet($what) };
    (@in_swarm $what:literal) => { Does::InSwarm($what) };
}

const ROUTES: &[Route] = routes! {
    GET    "/_ping"                       SystemPing               => answer(|call, _| Ok(system::ping(&call)));
    HEAD   "/_ping"                       SystemPingHead           => answer(|call, _| Ok(system::ping(&call)));
    GET    "/version"                     SystemVersion            => answer(|call, _| system::version(&call).await);
    GET    "/info"                        SystemInfo               => answer(|call, _| system::info(&call).await);
    GET    "/events"                      SystemEvents             => answer(|call, _| events::stream(&call).await);
    GET    "/system/df"                   SystemDataUsage          => answer(|call, _| disk_usage::show(&call).await);
    POST   "/auth"                        SystemAuth               => answer(|call, _| system::auth(call).await);

    GET    "/containers/json"             ContainerList            => answer(|call, _| containers::list(&call).await);
    POST   "/containers/create"           ContainerCreate          => answer(|call, _| containers::create(call).await);
    POST   "/containers/prune"            ContainerPrune           => answer(|call, _| containers::prune(&call).await);
    GET    "/containers/{id}/json"        ContainerInspect         => answer(|call, id| containers::inspect(&call, &id).await);
    GET    "/containers/{id}/logs"        ContainerLogs            => answer(|call, id| containers::logs(&call, &id).await);
    GET    "/containers/{id}/top"         ContainerTop             => answer(|call, id| containers::top(&call, &id).await);
    GET    "/containers/{id}/changes"     ContainerChanges         => not_yet("listing a container's changed files is");
    GET    "/containers/{id}/export"      ContainerExport          => not_yet("exporting a container's files is");
    GET    "/containers/{id}/stats"       ContainerStats           => not_yet("resource usage of containers is");
    GET    "/containers/{id}/attach/ws"   ContainerAttachWebsocket => not_yet("attaching over a web socket is");
    POST   "/containers/{id}/start"       ContainerStart           => answer(|call, id| containers::start(&call, &id).await);
    POST   "/containers/{id}/stop"        ContainerStop            => answer(|call, id| containers::stop(&call, &id).await);
    POST   "/containers/{id}/restart"     ContainerRestart         => answer(|call, id| containers::restart(&call, &id).await);
    POST   "/containers/{id}/kill"        ContainerKill            => answer(|call, id| containers::kill(&call, &id).await);
    POST   "/containers/{id}/wait"        ContainerWait            => answer(|call, id| containers::wait(&call, &id));
    POST   "/containers/{id}/attach"      ContainerAttach          => answer(|call, id| containers::attach(call, &id).await);
    POST   "/containers/{id}/resize"      ContainerResize          => answer(|call, id| containers::resize(&call, &id).await);
    POST   "/containers/{id}/rename"      ContainerRename          => answer(|call, id| containers::rename(&call, &id).await);
    POST   "/containers/{id}/update"      ContainerUpdate          => not_yet("changing a container's resources is");
    POST   "/containers/{id}/pause"       ContainerPause           => answer(|call, id| containers::pause(&call, &id, true).await);
    POST   "/containers/{id}/unpause"     ContainerUnpause         => answer(|call, id| containers::pause(&call, &id, false).await);
    POST   "/containers/{id}/exec"        ContainerExec            => answer(|call, id| exec::create(call, &id).await);
    HEAD   "/containers/{id}/archive"     ContainerArchiveInfo     => not_yet("copying files into or out of containers is");
    GET    "/containers/{id}/archive"     ContainerArchive         => not_yet("copying files into or out of containers is");
    PUT    "/containers/{id}/archive"     PutContainerArchive      => not_yet("copying files into or out of containers is");
    DELETE "/containers/{id}"             ContainerDelete          => answer(|call, id| containers::remove(&call, &id).await);
    POST   "/commit"                      ImageCommit              => not_yet("making images from containers is");

    POST   "/exec/{id}/start"             ExecStart                => answer(|call, id| exec::start(call, &id).await);
    POST   "/exec/{id}/resize"            ExecResize               => answer(|call, id| exec::resize(call, &id).await);
    GET    "/exec/{id}/json"              ExecInspect              => answer(|call, id| exec::inspect(call, &id).await);

    GET    "/images/json"                 ImageList                => answer(|call, _| images::list(&call).await);
    GET    "/images/search"               ImageSearch              => not_yet("searching registries is");
    GET    "/images/get"                  ImageGetAll              => not_yet("saving images is");
    POST   "/images/create"               ImageCreate              => answer(|call, _| images::pull(call).await);
    POST   "/images/load"                 ImageLoad                => answer(|call, _| images::load(call).await);
    POST   "/images/prune"                ImagePrune               => answer(|call, _| images::prune(&call).await);
    GET    "/images/{name}/json"          ImageInspect             => answer(|call, name| images::inspect(&call, &name).await);
    GET    "/images/{name}/history"       ImageHistory             => answer(|call, name| images::history(&call, &name).await);
    GET    "/images/{name}/get"           ImageGet                 => not_yet("saving images is");
    GET    "/images/{name}/attestations"  ImageAttestations        => not_yet("listing attestations is");
    POST   "/images/{name}/push"          ImagePush                => not_yet("pushing images is");
    POST   "/images/{name}/tag"           ImageTag                 => answer(|call, name| images::tag(&call, &name).await);
    DELETE "/images/{name}"               ImageDelete              => answer(|call, name| images::remove(&call, &name).await);
    GET    "/distribution/{name}/json"    DistributionInspect      => not_yet("asking a registry about an image is");

    POST   "/build"                       ImageBuild               => not_yet("building images is");
    // Routed by docker and used by its CLI, and not in the specification.
    POST   "/build/cancel"                BuildCancel              => not_yet("building images is");
    POST   "/build/prune"                 BuildPrune               => answer(|_, _| system::prune_build_cache());
    POST   "/session"                     Session                  => not_yet("BuildKit is");
    // As `/build/cancel`.
    POST   "/grpc"                        Grpc                     => not_yet("BuildKit is");

    GET    "/networks"                    NetworkList              => answer(|call, _| networks::list(&call));
    GET    "/networks/{id}"               NetworkInspect           => answer(|call, id| networks::inspect(&call, &id));
    POST   "/networks/prune"              NetworkPrune             => answer(|call, _| networks::prune(&call));
    POST   "/networks/create"             NetworkCreate            => not_yet("networks of one's own are");
    POST   "/networks/{id}/connect"       NetworkConnect           => not_yet("connecting a container to further networks is");
    POST   "/networks/{id}/disconnect"    NetworkDisconnect        => not_yet("connecting a container to further networks is");
    DELETE "/networks/{id}"               NetworkDelete            => not_yet("removing the built-in networks is");

    GET    "/volumes"                     VolumeList               => answer(|call, _| volumes::list(&call));
    GET    "/volumes/{name}"              VolumeInspect            => answer(|_, name| volumes::inspect(&name));
    POST   "/volumes/prune"               VolumePrune              => answer(|call, _| volumes::prune(&call));
    POST   "/volumes/create"              VolumeCreate             => not_yet("volumes are");
    PUT    "/volumes/{name}"              VolumeUpdate             => not_yet("volumes are");
    DELETE "/volumes/{name}"              VolumeDelete             => not_yet("volumes are");

    GET    "/plugins"                     PluginList               => answer(|_, _| system::plugins());
    GET    "/plugins/privileges"          GetPluginPrivileges      => not_yet("plugins are");
    GET    "/plugins/{name}/json"         PluginInspect            => not_yet("plugins are");
    POST   "/plugins/pull"                PluginPull               => not_yet("plugins are");
    POST   "/plugins/create"              PluginCreate             => not_yet("plugins are");
    POST   "/plugins/{name}/enable"       PluginEnable             => not_yet("plugins are");
    POST   "/plugins/{name}/disable"      PluginDisable            => not_yet("plugins are");
    POST   "/plugins/{name}/upgrade"      PluginUpgrade            => not_yet("plugins are");
    POST   "/plugins/{name}/push"         PluginPush               => not_yet("plugins are");
    POST   "/plugins/{name}/set"          PluginSet                => not_yet("plugins are");
    DELETE "/plugins/{name}"              PluginDelete             => not_yet("plugins are");

    POST   "/swarm/init"                  SwarmInit                => answer(|call, _| swarm::init(call).await);
    POST   "/swarm/join"                  SwarmJoin                => answer(|call, _| swarm::join(call).await);
    GET    "/swarm"                       SwarmInspect             => answer(|call, _| swarm::inspect(&call));
    GET    "/swarm/unlockkey"             SwarmUnlockkey           => answer(|call, _| swarm::unlock_key(&call));
    POST   "/swarm/leave"                 SwarmLeave               => answer(|call, _| swarm::leave(&call).await);
    POST   "/swarm/update"                SwarmUpdate              => answer(|call, _| swarm::update(call).await);
    POST   "/swarm/unlock"                SwarmUnlock              => answer(|call, _| swarm::unlock(&call));
    GET    "/nodes"                       NodeList                 => answer(|call, _| swarm::list_nodes(&call));
    GET    "/nodes/{id}"                  NodeInspect              => answer(|call, id| swarm::inspect_node(&call, &id));
    DELETE "/nodes/{id}"                  NodeDelete               => answer(|call, id| swarm::remove_node(&call, &id).await);
    POST   "/nodes/{id}/update"           NodeUpdate               => answer(|call, id| swarm::update_node(call, &id).await);
    GET    "/services"                    ServiceList              => in_swarm("services are");
    POST   "/services/create"             ServiceCreate            => in_swarm("services are");
    GET    "/services/{id}/logs"          ServiceLogs              => in_swarm("services are");
    GET    "/services/{id}"               ServiceInspect           => in_swarm("services are");
    DELETE "/services/{id}"               ServiceDelete            => in_swarm("services are");
    POST   "/services/{id}/update"        ServiceUpdate            => in_swarm("services are");
    GET    "/tasks"                       TaskList                 => answer(|call, _| swarm::list_tasks(&call));
    GET    "/tasks/{id}/logs"             TaskLogs                 => in_swarm("logs of tasks are");
    GET    "/tasks/{id}"                  TaskInspect              => answer(|call, id| swarm::inspect_task(&call, &id));
    GET    "/secrets"                     SecretList               => in_swarm("secrets are");
    POST   "/secrets/create"              SecretCreate             => in_swarm("secrets are");
    GET    "/secrets/{id}"                SecretInspect            => in_swarm("secrets are");
    DELETE "/secrets/{id}"                SecretDelete             => in_swarm("secrets are");
    POST   "/secrets/{id}/update"         SecretUpdate             => in_swarm("secrets are");
    GET    "/configs"                     ConfigList               => answer(|call, _| swarm::configs::list(&call));
    POST   "/configs/create"              ConfigCreate             => answer(|call, _| swarm::configs::create(call).await);
    GET    "/configs/{id}"                ConfigInspect            => answer(|call, id| swarm::configs::inspect(&call, &id));
    DELETE "/configs/{id}"                ConfigDelete             => answer(|call, id| swarm::configs::remove(&call, &id));
    POST   "/configs/{id}/update"         ConfigUpdate             => in_swarm("configs are");
};

/// Operations that tell of the node that is asked, or ask another for what only that one knows: they are answered where there is no leader
/// as well, and no sooner for having asked it.
const OF_THE_NODE: &[&str] = &[
    "SystemPing",
    "SystemPingHead",
    "SystemVersion",
    "SystemInfo",
    "SystemEvents",
    "SystemAuth",
    "ContainerResize",
    "ExecResize",
    "ExecStart",
    "ExecInspect",
];

impl Route {
    /// The path's parameter (empty where it has none), if the path is this route's. A parameter may have slashes in it, as names of
    /// images have; empty it is none.
    fn parameter<'a>(&self, path: &'a str) -> Option<&'a str> {
        let Some((before, rest)) = self.path.split_once('{') else {
            return (path == self.path).then_some("");
        };
        let after = rest.split_once('}').map_or("", |(_, after)| after);
        path.strip_prefix(before)?
            .strip_suffix(after)
            .filter(|parameter| !parameter.is_empty())
    }
}

/// The operation that a request asks for, and its path's parameter. A method that a path doesn't have is answered as a path that isn't
/// there: so docker does.
fn find<'a>(method: &Method, path: &'a str) -> Result<(&'static Route, &'a str), ApiError> {
    ROUTES
        .iter()
        .filter(|route| route.method == *method)
        .find_map(|route| Some((route, route.parameter(path)?)))
        .ok_or_else(|| ApiError::not_found("page not found"))
}

/// Finds the handler and has it answer.
pub async fn route(call: Call) -> Answer {
    let (route, parameter) = find(&call.method, &call.path)?;
    let parameter = parameter.to_owned();
    tracing::debug!(operation = route.operation, tenant = %call.tenant, "request");
    match &route.does {
        Does::Answer(handler) => {
            if !OF_THE_NODE.contains(&route.operation) {
                call.controller().barrier().await?;
            }
            handler(call, parameter).await
        }
        Does::NotYet(what) => Err(ApiError::unsupported(what)),
        Does::InSwarm(what) => Err(swarm::not_yet(&call, what)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn operation(method: Method, path: &str) -> Option<(&'static str, &str)> {
        find(&method, path)
            .ok()
            .map(|(route, parameter)| (route.operation, parameter))
    }

    #[test]
    fn each_row_is_reached_and_named_once() {
        for route in ROUTES {
            let path = route
                .path
                .replace("{id}", "web")
                .replace("{name}", "registry.example:5000/a/b:1");
            assert_eq!(
                operation(route.method.clone(), &path).map(|(name, _)| name),
                Some(route.operation)
            );
        }
        let names: HashSet<_> = ROUTES.iter().map(|route| route.operation).collect();
        assert_eq!(names.len(), ROUTES.len());
    }

    #[test]
    fn a_parameter_may_have_slashes_and_is_never_empty() {
        assert_eq!(
            operation(Method::POST, "/images/registry.example/a/json/tag"),
            Some(("ImageTag", "registry.example/a/json"))
        );
        assert_eq!(
            operation(Method::GET, "/containers//web/json"),
            Some(("ContainerInspect", "/web"))
        );
        for path in ["/images//json", "/containers//json", "/networks/"] {
            assert_eq!(operation(Method::GET, path), None, "{path}");
        }
    }

    #[test]
    fn what_no_docker_has_is_no_operation() {
        for (method, path) in [
            (Method::GET, ""),
            (Method::GET, "/"),
            (Method::GET, "/containers"),
            (Method::GET, "/containers/json/"),
            (Method::GET, "/containers/x/nothing"),
            (Method::PUT, "/version"),
            (Method::HEAD, "/version"),
            (Method::POST, "/containers/json"),
            (Method::OPTIONS, "/_ping"),
        ] {
            assert_eq!(operation(method, path), None, "{path}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_path_is_an_operation_or_none(path in "(/[a-z{}._]{0,8}){0,5}") {
            for method in [Method::GET, Method::POST, Method::DELETE] {
                if let Some((_, parameter)) = operation(method, &path) {
                    assert!(path.contains(parameter));
                }
            }
        }
    }
}
