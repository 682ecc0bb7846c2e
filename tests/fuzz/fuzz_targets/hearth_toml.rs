//! See `hearth_fuzz::hearth_toml`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(hearth_toml);
