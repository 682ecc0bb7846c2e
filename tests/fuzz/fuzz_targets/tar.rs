//! See `hearth_fuzz::tar`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(tar);
