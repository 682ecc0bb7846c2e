//! See `hearth_fuzz::process`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(process);
