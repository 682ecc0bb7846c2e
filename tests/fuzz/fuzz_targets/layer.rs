//! See `hearth_fuzz::layer`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(layer);
