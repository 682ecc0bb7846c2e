//! See `hearth_fuzz::dhcp`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(dhcp);
