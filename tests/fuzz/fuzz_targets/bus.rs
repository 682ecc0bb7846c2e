//! See `hearth_fuzz::bus`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(bus);
