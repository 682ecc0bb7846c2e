//! See `hearth_fuzz::registry_auth`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(registry_auth);
