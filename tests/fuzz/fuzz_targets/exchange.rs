//! See `hearth_fuzz::exchange`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(exchange);
