//! See `hearth_fuzz::block`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(block);
