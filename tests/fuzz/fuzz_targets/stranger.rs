//! See `hearth_fuzz::stranger`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(stranger);
