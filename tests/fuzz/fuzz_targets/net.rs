//! See `hearth_fuzz::net`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(net);
