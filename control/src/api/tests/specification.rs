//! What docker's specification says of every operation, or of those that any client begins with.

use hyper::{Method, StatusCode};
use serde_json::Value;

use super::node::{read, run, server};

#[test]
fn what_the_node_tells_of_itself_has_the_specifications_fields_in_their_types() {
    let has = |value: &Value, fields: &str, is: fn(&Value) -> bool| {
        for field in fields.split_whitespace() {
            let found = value.get(field);
            assert!(found.is_some_and(is), "{field}: {found:?}");
        }
    };
    run(async {
        let server = server().await;
        let mut client = server.client("owner").await;
        // Definition SystemInfo of API 1.41.
        let (_, info) = client.get("/v1.41/info").await;
        has(
            &info,
            "ID Driver DockerRootDir SystemTime LoggingDriver CgroupDriver CgroupVersion KernelVersion OperatingSystem OSVersion \
             OSType Architecture IndexServerAddress HttpProxy HttpsProxy NoProxy Name ServerVersion DefaultRuntime Isolation InitBinary",
            Value::is_string,
        );
        has(
            &info,
            "Containers ContainersRunning ContainersPaused ContainersStopped Images NFd NGoroutines NEventsListener NCPU MemTotal",
            Value::is_u64,
        );
        has(
            &info,
            "MemoryLimit SwapLimit KernelMemory CpuCfsPeriod CpuCfsQuota CPUShares CPUSet PidsLimit OomKillDisable IPv4Forwarding \
             BridgeNfIptables BridgeNfIp6tables Debug ExperimentalBuild LiveRestoreEnabled",
            Value::is_boolean,
        );
        has(
            &info,
            "DriverStatus Labels SecurityOptions Warnings",
            Value::is_array,
        );
        has(
            &info,
            "Plugins RegistryConfig Runtimes Swarm ContainerdCommit RuncCommit InitCommit",
            Value::is_object,
        );
        has(&info["Plugins"], "Volume Network Log", Value::is_array);
        assert_eq!(info["Swarm"]["LocalNodeState"], "inactive");
        assert_eq!(
            info["RegistryConfig"]["IndexConfigs"]["docker.io"]["Official"],
            true
        );
        // SystemVersion.
        let (_, version) = client.get("/v1.41/version").await;
        has(
            &version,
            "Version ApiVersion MinAPIVersion GitCommit GoVersion Os Arch KernelVersion BuildTime",
            Value::is_string,
        );
        assert!(version["Platform"]["Name"].is_string());
        assert_eq!(version["Components"][0]["Name"], "Engine");
        // SystemDataUsageResponse, in each form.
        client.load_image().await;
        let (_, usage) = client.get("/v1.41/system/df").await;
        has(
            &usage,
            "Images Containers Volumes BuildCache",
            Value::is_array,
        );
        assert_eq!(usage["Images"][0]["VirtualSize"], usage["LayersSize"]);
        let (_, usage) = client.get("/v1.52/system/df?verbose=1&type=image").await;
        assert_eq!(usage["ImageUsage"]["TotalCount"], 1);
        assert_eq!(
            usage["ImageUsage"]["Reclaimable"],
            usage["ImageUsage"]["TotalSize"]
        );
        assert_eq!(
            client.get("/v1.52/system/df?type=x").await.0,
            StatusCode::BAD_REQUEST
        );
    });
}

#[test]
fn a_body_that_is_not_one_json_object_is_refused_by_every_operation_that_reads_one() {
    run(async {
        let server = server().await;
        let mut client = server.client("owner").await;
        for path in [
            "/containers/create",
            "/containers/web/exec",
            "/exec/some/start",
            "/auth",
        ] {
            for (body, kind, refusal) in [
                ("{", "application/json", "invalid JSON: unexpected EOF"),
                (" ", "application/json", "invalid JSON: got EOF"),
                ("{} {}", "application/json", "unexpected content after JSON"),
                ("[]", "application/json", "invalid JSON: "),
                ("{}", "text/plain", "unsupported Content-Type header"),
                ("{}", "", "malformed Content-Type header"),
            ] {
                let headers = [("content-type", kind)];
                let answer = client.send(Method::POST, path, body, &headers).await;
                let (status, answer) = read(answer.unwrap()).await;
                assert_eq!(status, StatusCode::BAD_REQUEST, "{path} {body:?} {answer}");
                let message = answer["message"].as_str().unwrap();
                assert!(message.starts_with(refusal), "{path} {body:?}: {message}");
            }
        }
        for path in [
            "/containers/json?filters={",
            "/networks?all=%zz",
            "/volumes?filters=x",
        ] {
            assert_eq!(client.get(path).await.0, StatusCode::BAD_REQUEST, "{path}");
        }
    });
}
