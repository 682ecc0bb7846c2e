//! See `hearth_fuzz::request`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(request);
