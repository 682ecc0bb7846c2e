//! See `hearth_fuzz::peer_frames`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(peer_frames);
