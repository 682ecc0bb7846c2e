//! The monitor against a guest that does to each device what no driver does.

use std::path::Path;

use hearth_hostile_guest::trial;

#[test]
fn a_hostile_guest_does_not_hang_its_monitor() {
    if let Err(error) = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
    {
        eprintln!("skipped: /dev/kvm can't be opened: {error}");
        return;
    }
    let tun = trial::tun();
    if let Err(error) = &tun {
        eprintln!("without a network: {error:#}");
    }
    let folder = tempfile::tempdir().expect("the temporary folder is writable");
    let vmm = Path::new(env!("CARGO_BIN_EXE_vmm"));
    if let Err(error) = trial::run(vmm, folder.path(), tun.ok()) {
        panic!("{error:#}");
    }
}
