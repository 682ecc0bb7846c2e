//! See `hearth_fuzz::certificate`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(certificate);
