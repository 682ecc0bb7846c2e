//! See `hearth_fuzz::query`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(query);
