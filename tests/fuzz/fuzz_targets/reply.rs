//! See `hearth_fuzz::reply`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(reply);
