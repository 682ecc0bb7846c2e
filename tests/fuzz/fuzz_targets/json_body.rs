//! See `hearth_fuzz::json_body`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(json_body);
