//! See `hearth_fuzz::monitor_api`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(monitor_api);
