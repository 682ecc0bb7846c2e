//! See `hearth_fuzz::rng`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(rng);
