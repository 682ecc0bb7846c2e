//! See `hearth_fuzz::owner`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(owner);
