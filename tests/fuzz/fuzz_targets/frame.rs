//! See `hearth_fuzz::frame`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(frame);
