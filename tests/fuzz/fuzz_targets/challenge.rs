//! See `hearth_fuzz::challenge`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(challenge);
