//! See `hearth_fuzz::reference`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(reference);
