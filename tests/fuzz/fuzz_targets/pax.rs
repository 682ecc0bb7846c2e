//! See `hearth_fuzz::pax`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(pax);
