//! `GET /containers/json`.

use bollard_stubs::models::{
    ContainerSummary, ContainerSummaryHostConfig, ContainerSummaryNetworkSettings,
    ContainerSummaryStateEnum,
};

use super::{describe, ports, size};
use crate::api::docker::answer::{self, Answer};
use crate::api::docker::call::Call;
use crate::api::docker::errors::ApiError;
use crate::api::docker::query::{Filters, Query};
use crate::api::docker::{images, networks};
use crate::state::{Placed, State, Tenant};

/// What may be filtered by.
const FILTERS: [&str; 15] = [
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];
/// docker's states; filtering by another word is an error.
const STATES: [&str; 7] = [
    "created",
    "restarting",
    "running",
    "removing",
    "paused",
    "exited",
    "dead",
];

/// The tenant's containers, newest first.
pub async fn list(call: &Call) -> Answer {
    let mut chosen = {
        let state = call.controller().state();
        let chosen = choose(&state, &call.tenant, &call.query)?;
        summaries_of(&state, chosen)
    };
    if call.query.flag("size") {
        add_sizes(call, &mut chosen).await?;
    }
    answer::ok(&chosen)
}

/// All containers of a tenant with their sizes, as `system df` shows them.
pub async fn summaries(call: &Call) -> Result<Vec<ContainerSummary>, ApiError> {
    let mut all = {
        let state = call.controller().state();
        summaries_of(&state, newest_first(&state, &call.tenant))
    };
    add_sizes(call, &mut all).await?;
    Ok(all)
}

fn summaries_of(state: &State, containers: Vec<Placed>) -> Vec<ContainerSummary> {
    let summaries = containers.into_iter().map(|it| summary(state, &it));
    summaries.collect()
}

async fn add_sizes(call: &Call, summaries: &mut [ContainerSummary]) -> Result<(), ApiError> {
    for summary in summaries {
        let Ok(container) = call.container(summary.id.as_deref().unwrap_or_default()) else {
            continue; // Removed in the meantime.
        };
        let size = size::of(call, &container).await?;
        summary.size_rw = Some(size.writable);
        summary.size_root_fs = Some(size.root);
    }
    Ok(())
}

fn newest_first(state: &State, tenant: &Tenant) -> Vec<Placed> {
    let mut all: Vec<_> = state.of_tenant(tenant).collect();
    all.sort_by(|a, b| (b.created_ns, &b.id).cmp(&(a.created_ns, &a.id)));
    all
}

fn choose(state: &State, tenant: &Tenant, query: &Query) -> Result<Vec<Placed>, ApiError> {
    let filters = query.filters(&FILTERS)?;
    for word in filters.values("status") {
        if !STATES.contains(&word.as_str()) {
            return Err(ApiError::bad_request(format!(
                "invalid filter 'status={word}'"
            )));
        }
    }
    let limit = query
        .number::<i64>("limit")?
        .and_then(|limit| usize::try_from(limit).ok())
        .filter(|&limit| limit > 0);
    let all = query.flag("all")
        || limit.is_some()
        || filters.has("status")
        || filters.has("before")
        || filters.has("since");
    let containers = newest_first(state, tenant);
    let created = |filter: &str| -> Result<Option<u64>, ApiError> {
        let Some(name) = filters.values(filter).first() else {
            return Ok(None);
        };
        let named = containers
            .iter()
            .find(|c| c.name.as_str() == name.trim_start_matches('/'));
        let found = named.or_else(|| containers.iter().find(|c| c.id.begins_with(name)));
        found
            .map(|c| Some(c.created_ns))
            .ok_or_else(|| ApiError::no_such_container(name))
    };
    let (before, since) = (created("before")?, created("since")?);
    let ancestors: Vec<String> = filters
        .values("ancestor")
        .iter()
        .filter_map(|name| images::resolve(state, tenant, name).ok())
        .collect();
    let exit_codes = filters
        .values("exited")
        .iter()
        .map(|code| {
            code.parse::<u8>()
                .map_err(|_| ApiError::bad_request(format!("invalid filter 'exited={code}'")))
        })
        .collect::<Result<Vec<_>, _>>()?;

    let mut chosen = Vec::new();
    for container in containers {
        let shown = all || container.is_up() || describe::state(&container) == "restarting";
        let in_order = before.is_none_or(|at| container.created_ns < at)
            && since.is_none_or(|at| container.created_ns > at);
        let ancestor = !filters.has("ancestor") || ancestors.contains(&container.image);
        let exited = exit_codes.is_empty()
            || (describe::state(&container) == "exited"
                && exit_codes.contains(&container.status.exit.code));
        if shown && in_order && ancestor && exited && passes(&container, &filters)? {
            chosen.push(container);
        }
        if limit == Some(chosen.len()) {
            break;
        }
    }
    Ok(chosen)
}

fn passes(container: &Placed, filters: &Filters) -> Result<bool, ApiError> {
    for wanted in filters.values("publish") {
        let published = ports::published(container);
        if !ports::matches(wanted, published.iter().map(String::as_str))? {
            return Ok(false);
        }
    }
    for wanted in filters.values("expose") {
        if !ports::matches(
            wanted,
            container.spec.exposed_ports.iter().map(String::as_str),
        )? {
            return Ok(false);
        }
    }
    let network = networks::of_mode(container.spec.network_mode);
    Ok(filters.any("id", |prefix| container.id.begins_with(prefix))
        && filters.any("name", |pattern| {
            name_matches(container.name.as_str(), pattern)
        })
        && filters.any("status", |word| describe::state(container) == word)
        && filters.any("health", |word| word == "none")
        && filters.any("isolation", |word| word == "default")
        && filters.any("network", |name| {
            name == network || networks::is_id(&container.tenant, network, name)
        })
        && filters.truth("is-task")? != Some(true)
        && !filters.has("volume")
        && filters.labels(|key| container.spec.labels.get(key).map(String::as_str)))
}

/// docker takes a regular expression that it looks for in `/name`; what people write is a part of a name, or one anchored by `^`, `/`
/// and `$`.
fn name_matches(name: &str, pattern: &str) -> bool {
    let (start, rest) = match pattern.strip_prefix('^') {
        Some(rest) => (true, rest.strip_prefix('/').unwrap_or(rest)),
        None => match pattern.strip_prefix('/') {
            Some(rest) => (true, rest),
            None => (false, pattern),
        },
    };
    let (end, rest) = match rest.strip_suffix('$') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let rest = rest.replace("\\.", ".").replace("\\-", "-");
    match (start, end) {
        (true, true) => name == rest,
        (true, false) => name.starts_with(&rest),
        (false, true) => name.ends_with(&rest),
        (false, false) => name.contains(&rest),
    }
}

fn summary(state: &State, container: &Placed) -> ContainerSummary {
    let word = describe::state(container);
    ContainerSummary {
        id: Some(container.id.to_string()),
        names: Some(vec![format!("/{}", container.name)]),
        image: Some(describe::image_name(state, container)),
        image_id: Some(container.image.clone()),
        command: Some(describe::command_line(container)),
        created: Some((container.created_ns / 1_000_000_000) as i64),
        ports: Some(ports::summary(container)),
        labels: Some(container.spec.labels.clone().into_iter().collect()),
        state: Some(match word {
            "created" => ContainerSummaryStateEnum::CREATED,
            "running" => ContainerSummaryStateEnum::RUNNING,
            "paused" => ContainerSummaryStateEnum::PAUSED,
            "restarting" => ContainerSummaryStateEnum::RESTARTING,
            _ => ContainerSummaryStateEnum::EXITED,
        }),
        status: Some(match describe::pending(state, container) {
            Some(why) => describe::pending_status(&why),
            None => describe::status(container),
        }),
        host_config: Some(ContainerSummaryHostConfig {
            network_mode: Some(networks::mode_name(container.spec.network_mode).to_owned()),
            ..ContainerSummaryHostConfig::default()
        }),
        network_settings: Some(ContainerSummaryNetworkSettings {
            networks: Some([networks::endpoint(container)].into_iter().collect()),
        }),
        mounts: Some(Vec::new()),
        ..ContainerSummary::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::describe::tests::container;
    use super::*;
    use crate::state::{ContainerSpec, Phase, Pod};

    fn state() -> State {
        let mut state = State::default();
        let labels = [("tier".to_owned(), "web".to_owned())].into();
        let mut all = [
            container(
                1,
                "web-1",
                ContainerSpec {
                    labels,
                    ..ContainerSpec::default()
                },
            ),
            container(
                2,
                "db",
                ContainerSpec {
                    exposed_ports: ["5432/tcp".to_owned()].into(),
                    ..ContainerSpec::default()
                },
            ),
            container(3, "web-10", ContainerSpec::default()),
            container(4, "foreign", ContainerSpec::default()),
        ];
        all[0].status.phase = Phase::Running;
        all[1].status.phase = Phase::Exited;
        all[1].status.started_ns = 1;
        all[1].status.exit.code = 3;
        all[3].tenant = "other".parse().unwrap();
        all[3].status.phase = Phase::Running;
        state.pods = (1..=4).map(Pod::sample).collect();
        state.containers = all.into_iter().collect();
        state
    }

    fn names(query: &str) -> Result<Vec<String>, String> {
        let state = state();
        choose(&state, &"acme".parse().unwrap(), &Query::parse(query))
            .map(|found| found.iter().map(|c| c.name.to_string()).collect())
            .map_err(|e| e.message().to_owned())
    }

    #[test]
    fn only_the_tenants_own_and_by_default_only_running_ones() {
        assert_eq!(names("").unwrap(), ["web-1"]);
        assert_eq!(names("all=1").unwrap(), ["web-10", "db", "web-1"]);
        assert_eq!(names("limit=1").unwrap(), ["web-10"]);
    }

    #[test]
    fn filters_choose_as_docker_chooses() {
        for (filters, found) in [
            (r#"{"name":["web"]}"#, vec!["web-10", "web-1"]),
            (r#"{"name":["^/web-1$"]}"#, vec!["web-1"]),
            (r#"{"label":["tier=web"]}"#, vec!["web-1"]),
            (r#"{"label":["tier"]}"#, vec!["web-1"]),
            (r#"{"status":["exited","created"]}"#, vec!["web-10", "db"]),
            (r#"{"exited":["3"]}"#, vec!["db"]),
            (r#"{"expose":["5432"]}"#, vec!["db"]),
            (r#"{"before":["db"]}"#, vec!["web-1"]),
            (r#"{"since":["db"]}"#, vec!["web-10"]),
            (r#"{"id":["0101"]}"#, vec!["web-1"]),
            (r#"{"ancestor":["nothing"]}"#, vec![]),
            (
                r#"{"network":["bridge"],"health":["none"]}"#,
                vec!["web-10", "db", "web-1"],
            ),
        ] {
            assert_eq!(
                names(&format!("all=1&filters={filters}")).unwrap(),
                found,
                "{filters}"
            );
        }
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(
            names(r#"filters={"status":["asleep"]}"#).unwrap_err(),
            "invalid filter 'status=asleep'"
        );
        assert!(names(r#"filters={"exited":["x"]}"#).is_err());
        assert_eq!(
            names(r#"filters={"before":["foreign"]}"#).unwrap_err(),
            "No such container: foreign"
        );
        assert!(names("limit=many").is_err());
    }
}
