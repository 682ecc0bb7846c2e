//! See `hearth_fuzz::log`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(log);
