//! The scripted monitor, as a process of its own: this test program, started again by a script with the same descriptors.

use std::path::{Path, PathBuf};

/// A program that behaves as the monitor does.
pub fn script(dir: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join("vmm");
    let program = std::env::current_exe().unwrap();
    let text = format!(
        "#!/bin/sh\nexport {CGROUP}={}/cgroup\nexec {} --exact agent::local::tests::monitor::stand_in --ignored --nocapture\n",
        dir.display(),
        program.display()
    );
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

/// Where the pods' groups are: an ordinary directory, in which nobody but the monitor itself keeps the list of processes.
const CGROUP: &str = "HEARTH_TEST_CGROUP";

#[test]
#[ignore = "the program of the other tests' monitor processes"]
fn stand_in() {
    let groups = PathBuf::from(std::env::var_os(CGROUP).unwrap());
    // SAFETY: control has started this process as a monitor, and nothing in it has touched the descriptors.
    unsafe { hearth_scripted_monitor::serve(&groups) }.unwrap();
}
