//! See `hearth_fuzz::user`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(user);
