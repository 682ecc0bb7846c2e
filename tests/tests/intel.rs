//! Containers on an Intel processor: another vendor's virtualization, and what the monitor does differently for it.

use hearth_tests::intel;
use serde_json::json;

#[test]
fn containers_run_on_intels_virtualization() {
    let container = |script: &str| json!({ "Image": "busybox", "Cmd": ["sh", "-c", script] });
    let containers = json!([
        container("grep -m 1 vendor_id /proc/cpuinfo; grep -m 1 -o ' hypervisor' /proc/cpuinfo"),
        container("cat /sys/devices/system/clocksource/clocksource0/current_clocksource"),
        // The timer interrupts, and time goes on.
        container("begun=$(date +%s); sleep 2; [ $(date +%s) -gt $begun ] && echo later"),
        container("echo out; echo error >&2; exit 3"),
    ]);
    let (result, console) = intel::run("", &containers).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(result["processor"], "GenuineIntel", "{result:#}\n{console}");
    assert_eq!(result["virtualization"], "intel", "{result:#}\n{console}");
    let said = |index: usize| {
        let container = &result["containers"][index];
        assert!(container.is_object(), "{result:#}");
        (
            container["code"].as_u64(),
            container["output"].as_str().unwrap_or_default(),
        )
    };
    let (code, vendor) = said(0);
    assert_eq!(code, Some(0), "{result:#}");
    assert!(
        vendor.contains("GenuineIntel") && vendor.contains("hypervisor"),
        "{result:#}"
    );
    let (code, clock) = said(1);
    assert_eq!(code, Some(0), "{result:#}");
    assert!(["kvm-clock\n", "tsc\n"].contains(&clock), "{result:#}");
    assert_eq!(said(2), (Some(0), "later\n"), "{result:#}");
    let (code, both) = said(3);
    assert_eq!(code, Some(3), "{result:#}");
    assert!(
        both.contains("out\n") && both.contains("error\n"),
        "{result:#}"
    );
}

#[test]
fn a_processor_whose_guests_are_restricted_runs_them_by_the_monitors_task_state_and_identity_map() {
    // Without unrestricted guests, KVM runs code outside of paging with page tables and a task state of its own, in guest
    // addresses that the monitor keeps free for them (Documentation/virt/kvm/api.rst, KVM_SET_TSS_ADDR).
    let containers = json!([{ "Image": "busybox", "Cmd": ["echo", "runs"] }]);
    let (result, _) = intel::run("kvm_intel.unrestricted_guest=0", &containers)
        .unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(
        result["containers"],
        json!([{ "code": 0, "output": "runs\n" }]),
        "{result:#}"
    );
}
