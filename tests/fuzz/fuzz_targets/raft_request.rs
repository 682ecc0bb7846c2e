//! See `hearth_fuzz::raft_request`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(raft_request);
