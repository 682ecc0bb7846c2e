//! What a node without a machine starts as its monitors.

fn main() -> std::io::Result<()> {
    // SAFETY: this process was started as a monitor, and does nothing else.
    unsafe { hearth_scripted_monitor::serve("/sys/fs/cgroup/pods".as_ref()) }
}
