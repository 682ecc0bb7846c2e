//! Fuzz targets: everything that reads bytes from strangers, and the inputs that are kept.
//!
//! A target is a function that takes any bytes and promises to end: it panics, or takes for ever, if and only if something is
//! wrong. What it does is in the module `fuzzing` of the crate that it belongs to; here is the list of all. `cargo xtask fuzz`
//! runs the executables of `fuzz_targets`, one for each, under an engine; `cargo test` replays `seeds`.

/// The main function of a target's executable: the engine's, where there is one.
#[macro_export]
macro_rules! fuzz {
    ($target:ident) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| $crate::$target(bytes));

        #[cfg(not(fuzzing))]
        fn main() {
            eprintln!(
                "there is no engine in here: cargo xtask fuzz {}",
                stringify!($target)
            );
        }
    };
}

macro_rules! targets {
    ($($name:ident: $function:path,)*) => {
        $(pub use $function as $name;)*

        /// All targets by name.
        pub const TARGETS: &[(&str, fn(&[u8]))] = &[$((stringify!($name), $name)),*];
    };
}

targets! {
    archive: hearth_image::fuzzing::archive,
    challenge: hearth_image::fuzzing::challenge,
    exchange: hearth_image::fuzzing::exchange,
    image_config: hearth_image::fuzzing::config,
    layer: hearth_image::fuzzing::layer,
    manifest: hearth_image::fuzzing::manifest,
    pax: hearth_image::fuzzing::pax,
    reference: hearth_image::fuzzing::reference,
    tar: hearth_image::fuzzing::tar,

    balloon: hearth_vmm::fuzzing::balloon,
    block: hearth_vmm::fuzzing::block,
    bus: hearth_vmm::fuzzing::bus,
    frame: hearth_vmm::fuzzing::frame,
    monitor_api: hearth_vmm::fuzzing::monitor_api,
    net: hearth_vmm::fuzzing::net,
    rng: hearth_vmm::fuzzing::rng,
    vsock: hearth_vmm::fuzzing::vsock,

    agent_question: hearth_control::fuzzing::agent_question,
    certificate: hearth_control::fuzzing::certificate,
    image_part: hearth_control::fuzzing::image_part,
    json_body: hearth_control::fuzzing::json_body,
    log: hearth_control::fuzzing::log,
    owner: hearth_control::fuzzing::owner,
    peer_frames: hearth_control::fuzzing::peer_frames,
    query: hearth_control::fuzzing::query,
    raft_request: hearth_control::fuzzing::raft_request,
    registry_auth: hearth_control::fuzzing::registry_auth,
    reply: hearth_control::fuzzing::reply,
    stranger: hearth_control::fuzzing::stranger,
    swarm_body: hearth_control::fuzzing::swarm_body,

    process: hearth_guest_init::fuzzing::process,
    request: hearth_guest_init::fuzzing::request,
    user: hearth_guest_init::fuzzing::user,

    boot_sector: hearth_init::host::fuzzing::boot_sector,
    dhcp: hearth_init::host::fuzzing::dhcp,
    disk: hearth_init::host::fuzzing::disk,
    hearth_toml: hearth_init::host::fuzzing::hearth_toml,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::TARGETS;

    fn files(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder)
            .unwrap_or_else(|error| panic!("reading {}: {error}", folder.display()));
        entries
            .map(|entry| entry.expect("a folder of ours").path())
            .collect()
    }

    fn stems(folder: &str) -> BTreeSet<String> {
        let files = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
        let stems = files.iter().filter_map(|path| path.file_stem()?.to_str());
        stems.map(str::to_owned).collect()
    }

    #[test]
    fn every_target_has_an_executable_and_seeds() {
        let names: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(stems("fuzz_targets"), names);
        assert_eq!(stems("seeds"), names);
    }

    #[test]
    fn every_seed_ends_with_a_value_or_an_error() {
        for (name, target) in TARGETS {
            let seeds = files(
                &Path::new(env!("CARGO_MANIFEST_DIR"))
                    .join("seeds")
                    .join(name),
            );
            assert!(!seeds.is_empty(), "{name} has no seeds");
            for seed in seeds {
                // Shown where the test fails.
                println!("{}", seed.display());
                target(&fs::read(&seed).expect("a file of ours"));
            }
        }
    }
}
