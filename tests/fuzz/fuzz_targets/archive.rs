//! See `hearth_fuzz::archive`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(archive);
