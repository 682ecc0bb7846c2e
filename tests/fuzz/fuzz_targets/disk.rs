//! See `hearth_fuzz::disk`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(disk);
