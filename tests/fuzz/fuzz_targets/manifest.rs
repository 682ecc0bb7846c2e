//! See `hearth_fuzz::manifest`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(manifest);
