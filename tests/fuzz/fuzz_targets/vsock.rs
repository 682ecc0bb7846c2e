//! See `hearth_fuzz::vsock`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(vsock);
