//! PID 1 of the host.
