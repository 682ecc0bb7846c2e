//! See `hearth_fuzz::balloon`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(balloon);
