//! Which handler answers which path.

use hyper::Method;

use super::answer::Answer;
use super::call::Call;
use super::errors::ApiError;
use super::{containers, events, exec, images, networks, system, unsupported, volumes};

/// Finds the handler and has it answer.
pub async fn route(mut call: Call) -> Answer {
    let path = std::mem::take(&mut call.path);
    let segments: Vec<&str> = path.iter().map(String::as_str).collect();
    let method = call.method.clone();
    match segments.as_slice() {
        ["containers", rest @ ..] => container(&method, rest, call).await,
        ["exec", id, action] => match (&method, *action) {
            (&Method::POST, "start") => exec::start(call, id).await,
            (&Method::POST, "resize") => exec::resize(call, id).await,
            (&Method::GET, "json") => exec::inspect(call, id).await,
            _ => Err(nothing_there()),
        },
        ["images", rest @ ..] => image(&method, rest, call).await,
        ["networks", rest @ ..] => match (&method, rest) {
            (&Method::GET, []) => networks::list(&call),
            (&Method::GET, [id]) => networks::inspect(&call, id),
            (&Method::POST, ["prune"]) => networks::prune(),
            _ => unsupported::answer(&method, &segments),
        },
        ["volumes", rest @ ..] => match (&method, rest) {
            (&Method::GET, []) => volumes::list(),
            (&Method::GET, [name]) => volumes::inspect(name),
            (&Method::POST, ["prune"]) => volumes::prune(),
            _ => unsupported::answer(&method, &segments),
        },
        [one] => match (&method, *one) {
            (&Method::GET | &Method::HEAD, "_ping") => Ok(system::ping()),
            (&Method::GET, "version") => system::version(&call).await,
            (&Method::GET, "info") => system::info(&call).await,
            (&Method::GET, "events") => events::stream(&call),
            (&Method::POST, "auth") => system::auth(call).await,
            (&Method::GET, "plugins") => system::plugins(),
            _ => unsupported::answer(&method, &segments),
        },
        ["system", "df"] if method == Method::GET => system::disk_usage(&call).await,
        ["build", "prune"] if method == Method::POST => system::prune_build_cache(),
        _ => unsupported::answer(&method, &segments),
    }
}

async fn container(method: &Method, path: &[&str], call: Call) -> Answer {
    match (method, path) {
        (&Method::GET, ["json"]) => containers::list(&call),
        (&Method::POST, ["create"]) => containers::create(call).await,
        (&Method::POST, ["prune"]) => containers::prune(&call).await,
        (&Method::DELETE, [id]) => containers::remove(&call, id).await,
        (&Method::GET, [id, action]) => match *action {
            "json" => containers::inspect(&call, id).await,
            "logs" => containers::logs(&call, id).await,
            "top" => containers::top(&call, id).await,
            _ => unsupported::answer(method, &["containers", id, action]),
        },
        (&Method::POST, [id, action]) => match *action {
            "start" => containers::start(&call, id).await,
            "stop" => containers::stop(&call, id).await,
            "restart" => containers::restart(&call, id).await,
            "kill" => containers::kill(&call, id).await,
            "wait" => containers::wait(&call, id),
            "attach" => containers::attach(call, id).await,
            "resize" => containers::resize(&call, id).await,
            "rename" => containers::rename(&call, id).await,
            "exec" => exec::create(call, id).await,
            _ => unsupported::answer(method, &["containers", id, action]),
        },
        (_, rest) => {
            let mut path = vec!["containers"];
            path.extend(rest);
            unsupported::answer(method, &path)
        }
    }
}

/// Names of images have slashes: the action is what stands last, the name all before.
async fn image(method: &Method, path: &[&str], call: Call) -> Answer {
    match (method, path) {
        (&Method::GET, ["json"]) => images::list(&call).await,
        (&Method::GET, ["search"]) => Err(ApiError::unsupported("searching registries is")),
        (&Method::POST, ["create"]) => images::pull(call).await,
        (&Method::POST, ["load"]) => images::load(call).await,
        (&Method::POST, ["prune"]) => images::prune(&call).await,
        (&Method::GET, [name @ .., "json"]) => images::inspect(&call, &name.join("/")).await,
        (&Method::GET, [name @ .., "history"]) => images::history(&call, &name.join("/")).await,
        (&Method::POST, [name @ .., "tag"]) => images::tag(&call, &name.join("/")).await,
        (&Method::DELETE, name) if !name.is_empty() => images::remove(&call, &name.join("/")).await,
        (_, rest) => {
            let mut path = vec!["images"];
            path.extend(rest);
            unsupported::answer(method, &path)
        }
    }
}

/// A path that isn't in the specification.
pub(super) fn nothing_there() -> ApiError {
    ApiError::not_found("page not found")
}
