//! What `inspect` tells is what was asked for: every field of the specification's `HostConfig` and `ContainerConfig`, since tools make
//! containers anew from it.

use std::collections::BTreeMap;

use bollard_stubs::models::{ContainerConfig, HostConfig};
use hyper::StatusCode;
use serde::de::{Deserialize, Deserializer, Visitor};
use serde_json::{Value, json};

use super::node::{Client, run, server};

/// What becomes of a field's value.
enum Fate {
    /// It comes back as it was given.
    Kept(Value),
    /// It comes back otherwise.
    Changed {
        given: Value,
        shown: Value,
        #[expect(dead_code, reason = "for whoever reads the table")]
        why: &'static str,
    },
    /// Creation fails.
    Refused(Value),
}

use Fate::{Changed, Kept, Refused};

fn host_config() -> BTreeMap<&'static str, Fate> {
    let device = json!([{ "Path": "/dev/sda", "Rate": 1000 }]);
    BTreeMap::from([
        ("CpuShares", Kept(json!(512))),
        ("Memory", Kept(json!(64 << 20))),
        ("CgroupParent", Kept(json!("/x"))),
        ("BlkioWeight", Kept(json!(500))),
        (
            "BlkioWeightDevice",
            Kept(json!([{ "Path": "/dev/sda", "Weight": 500 }])),
        ),
        ("BlkioDeviceReadBps", Kept(device.clone())),
        ("BlkioDeviceWriteBps", Kept(device.clone())),
        ("BlkioDeviceReadIOps", Kept(device.clone())),
        ("BlkioDeviceWriteIOps", Kept(device)),
        ("CpuPeriod", Kept(json!(50_000))),
        ("CpuQuota", Kept(json!(25_000))),
        ("CpuRealtimePeriod", Refused(json!(1_000))),
        ("CpuRealtimeRuntime", Refused(json!(1_000))),
        ("CpusetCpus", Kept(json!("0"))),
        ("CpusetMems", Kept(json!("0"))),
        ("Devices", Refused(json!([{ "PathOnHost": "/dev/null" }]))),
        ("DeviceCgroupRules", Refused(json!(["c 1:3 rwm"]))),
        ("DeviceRequests", Refused(json!([{ "Count": -1 }]))),
        ("MemoryReservation", Kept(json!(32 << 20))),
        ("MemorySwap", Kept(json!(-1))),
        ("MemorySwappiness", Kept(json!(50))),
        ("NanoCpus", Kept(json!(500_000_000))),
        ("OomKillDisable", Kept(json!(true))),
        ("Init", Kept(json!(true))),
        ("PidsLimit", Kept(json!(100))),
        (
            "Ulimits",
            Kept(json!([{ "Name": "nofile", "Soft": 5, "Hard": 10 }])),
        ),
        ("CpuCount", Kept(json!(1))),
        (
            "CpuPercent",
            Changed {
                given: json!(10),
                shown: json!(0),
                why: "docker discards it on Linux, with a warning",
            },
        ),
        ("IOMaximumIOps", Refused(json!(1))),
        ("IOMaximumBandwidth", Refused(json!(1))),
        ("Binds", Refused(json!(["/a:/b"]))),
        ("ContainerIDFile", Kept(json!("/tmp/id"))),
        (
            "LogConfig",
            Kept(json!({ "Type": "local", "Config": { "max-size": "1m" } })),
        ),
        ("NetworkMode", Kept(json!("none"))),
        (
            "PortBindings",
            Kept(
                json!({ "80/tcp": [{ "HostIp": "127.0.0.1", "HostPort": "18000-18002" }], "53/udp": [{ "HostIp": "", "HostPort": "" }] }),
            ),
        ),
        (
            "RestartPolicy",
            Kept(json!({ "Name": "on-failure", "MaximumRetryCount": 3 })),
        ),
        ("AutoRemove", Kept(json!(true))),
        ("VolumeDriver", Kept(json!("local"))),
        ("VolumesFrom", Refused(json!(["x"]))),
        (
            "Mounts",
            Kept(
                json!([{ "Type": "tmpfs", "Target": "/m", "ReadOnly": true, "TmpfsOptions": { "SizeBytes": 4096, "Mode": 511 } }]),
            ),
        ),
        ("ConsoleSize", Kept(json!([24, 80]))),
        ("Annotations", Kept(json!({ "a": "b" }))),
        ("CapAdd", Kept(json!(["cap_net_admin", "SYS_TIME"]))),
        ("CapDrop", Kept(json!(["ALL"]))),
        ("CgroupnsMode", Kept(json!("host"))),
        ("Dns", Kept(json!(["192.0.2.1"]))),
        ("DnsOptions", Kept(json!(["ndots:2"]))),
        ("DnsSearch", Kept(json!(["example.org"]))),
        ("ExtraHosts", Kept(json!(["a:192.0.2.1", "b:host-gateway"]))),
        ("GroupAdd", Kept(json!(["audio"]))),
        ("IpcMode", Kept(json!("shareable"))),
        ("Cgroup", Kept(json!("x"))),
        ("Links", Refused(json!(["x:y"]))),
        ("OomScoreAdj", Kept(json!(500))),
        ("PidMode", Refused(json!("host"))),
        ("Privileged", Kept(json!(true))),
        ("PublishAllPorts", Kept(json!(true))),
        ("ReadonlyRootfs", Kept(json!(true))),
        ("SecurityOpt", Kept(json!(["seccomp=unconfined"]))),
        ("StorageOpt", Kept(json!({ "size": "20G" }))),
        ("Tmpfs", Kept(json!({ "/t": "size=4096" }))),
        ("UTSMode", Refused(json!("host"))),
        ("UsernsMode", Kept(json!("host"))),
        ("ShmSize", Kept(json!(1 << 20))),
        ("Sysctls", Kept(json!({ "net.core.somaxconn": "1024" }))),
        ("Runtime", Kept(json!("runc"))),
        ("Isolation", Kept(json!("default"))),
        ("MaskedPaths", Kept(json!(["/proc/kcore"]))),
        ("ReadonlyPaths", Kept(json!([]))),
    ])
}

fn config() -> BTreeMap<&'static str, Fate> {
    BTreeMap::from([
        ("Hostname", Kept(json!("h"))),
        ("Domainname", Kept(json!("d.example"))),
        ("User", Kept(json!("1000:1000"))),
        ("AttachStdin", Kept(json!(true))),
        ("AttachStdout", Kept(json!(true))),
        ("AttachStderr", Kept(json!(true))),
        ("ExposedPorts", Kept(json!({ "80/tcp": {}, "53/udp": {} }))),
        ("Tty", Kept(json!(true))),
        ("OpenStdin", Kept(json!(true))),
        ("StdinOnce", Kept(json!(true))),
        ("Env", Kept(json!(["A=1", "FOO", "B=a = b"]))),
        ("Cmd", Kept(json!(["say", "it"]))),
        (
            "Healthcheck",
            Kept(
                json!({ "Test": ["CMD", "x"], "Interval": 1_000_000_000, "Timeout": 2_000_000_000, "Retries": 3,
                "StartPeriod": 4_000_000_000i64, "StartInterval": 5_000_000_000i64 }),
            ),
        ),
        ("ArgsEscaped", Kept(json!(true))),
        ("Image", Kept(json!("tiny"))),
        ("Volumes", Refused(json!({ "/v": {} }))),
        ("WorkingDir", Kept(json!("/tmp"))),
        ("Entrypoint", Kept(json!(["cat"]))),
        ("NetworkDisabled", Kept(json!(true))),
        ("OnBuild", Kept(json!(["RUN x"]))),
        (
            "Labels",
            Changed {
                given: json!({ "a": "b" }),
                shown: json!({ "a": "b", "of": "image" }),
                why: "the image's are there as well",
            },
        ),
        ("StopSignal", Kept(json!("SIGINT"))),
        ("StopTimeout", Kept(json!(7))),
        ("Shell", Kept(json!(["/bin/ash", "-c"]))),
    ])
}

/// Names of the fields that a type is read from.
fn fields_of<T: for<'de> Deserialize<'de>>() -> &'static [&'static str] {
    struct Names<'a>(&'a mut &'static [&'static str]);
    impl<'de> Deserializer<'de> for Names<'_> {
        type Error = serde::de::value::Error;
        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(serde::de::Error::custom("the type isn't a struct"))
        }
        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Self::Error> {
            *self.0 = fields;
            Err(serde::de::Error::custom("that is all"))
        }
        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
            unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }
    let mut names: &'static [&'static str] = &[];
    // The names are all that was wanted.
    let _ = T::deserialize(Names(&mut names));
    names
}

/// What a field needs beside it to make sense.
fn company(field: &str) -> Value {
    match field {
        "MemorySwap" | "MemoryReservation" => json!({ "Memory": 64 << 20 }),
        _ => json!({}),
    }
}

async fn check(client: &mut Client, part: &str, field: &str, fate: &Fate) -> Result<(), String> {
    let given = match fate {
        Kept(given) | Refused(given) | Changed { given, .. } => given,
    };
    let mut body = json!({ "Image": "tiny:latest" });
    let into = match part {
        "Config" => &mut body,
        _ => {
            body[part] = company(field);
            &mut body[part]
        }
    };
    into[field] = given.clone();
    let (status, created) = client.post("/v1.50/containers/create", body).await;
    let shown = match (fate, status) {
        (Refused(_), StatusCode::BAD_REQUEST | StatusCode::NOT_IMPLEMENTED) => return Ok(()),
        (Kept(shown) | Changed { shown, .. }, StatusCode::CREATED) => shown,
        _ => return Err(format!("{part}.{field}: {status} {created}")),
    };
    let id = created["Id"].as_str().unwrap_or_default();
    let (_, container) = client.get(&format!("/v1.50/containers/{id}/json")).await;
    let found = &container[part][field];
    match found == shown {
        true => Ok(()),
        false => Err(format!("{part}.{field}: {given} became {found}")),
    }
}

#[test]
fn every_field_comes_back_as_it_was_asked_for_or_is_refused() {
    run(async {
        let server = server().await;
        let mut client = server.client("owner").await;
        client.load_image().await;
        let mut wrong: Vec<String> = Vec::new();
        for (part, names, fates) in [
            ("HostConfig", fields_of::<HostConfig>(), host_config()),
            ("Config", fields_of::<ContainerConfig>(), config()),
        ] {
            assert!(names.len() > 20, "{part} has its fields");
            for field in names {
                match fates.get(field) {
                    Some(fate) => wrong.extend(check(&mut client, part, field, fate).await.err()),
                    None => wrong.push(format!("{part}.{field} is not in the table")),
                }
            }
            let strangers = fates.keys().filter(|name| !names.contains(*name));
            wrong.extend(strangers.map(|name| format!("{part} has no {name}")));
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    });
}

#[test]
fn a_container_made_anew_from_what_inspect_tells_of_it_is_the_same() {
    run(async {
        let server = server().await;
        let mut client = server.client("owner").await;
        client.load_image().await;
        let body = json!({
            "Image": "tiny:latest", "Env": ["FOO", "A=1"], "Cmd": ["x"], "ExposedPorts": { "80/tcp": {} },
            "HostConfig": { "Memory": 64 << 20, "CpuPeriod": 50_000, "CpuQuota": 25_000, "ShmSize": 1 << 20,
                "PortBindings": { "80/tcp": [{ "HostPort": "8080" }] }, "Tmpfs": { "/t": "" }, "CapDrop": ["ALL"],
                "RestartPolicy": { "Name": "unless-stopped" }, "LogConfig": { "Type": "none" } },
        });
        let mut shown: Vec<(Value, Value)> = Vec::new();
        let mut next = body;
        for _ in 0..2 {
            let (status, created) = client.post("/v1.50/containers/create", next).await;
            assert_eq!(status, StatusCode::CREATED, "{created}");
            assert_eq!(created["Warnings"], json!([]));
            let id = created["Id"].as_str().unwrap();
            let (_, mut container) = client.get(&format!("/v1.50/containers/{id}/json")).await;
            // The name that the first one has from its id, as tools leave it out.
            container["Config"]["Hostname"] = json!("");
            shown.push((container["Config"].clone(), container["HostConfig"].clone()));
            next = container["Config"].take();
            next["HostConfig"] = container["HostConfig"].take();
        }
        assert_eq!(shown[0], shown[1]);
    });
}

#[test]
fn output_of_a_container_that_logs_nowhere_cannot_be_asked_for() {
    run(async {
        let server = server().await;
        let mut client = server.client("owner").await;
        client.load_image().await;
        let id = client
            .create(json!({ "Image": "tiny", "HostConfig": { "LogConfig": { "Type": "none" } } }))
            .await;
        let (status, answer) = client.get(&format!("/containers/{id}/logs?stdout=1")).await;
        assert_eq!(status, StatusCode::NOT_IMPLEMENTED);
        assert_eq!(
            answer["message"],
            "configured logging driver does not support reading"
        );
    });
}

#[test]
fn sizes_are_told_where_they_are_asked_for() {
    run(async {
        let server = server().await;
        let mut client = server.client("owner").await;
        client.load_image().await;
        let id = client.create(json!({ "Image": "tiny" })).await;
        let (_, listed) = client.get("/containers/json?all=1").await;
        assert!(listed[0].get("SizeRw").is_none());
        let (_, listed) = client.get("/containers/json?all=1&size=1").await;
        let (_, shown) = client.get(&format!("/containers/{id}/json?size=1")).await;
        let (_, image) = client.get("/images/tiny/json").await;
        for sizes in [&listed[0], &shown] {
            assert_eq!(sizes["SizeRw"], 0);
            assert_eq!(sizes["SizeRootFs"], image["Size"]);
        }
    });
}
