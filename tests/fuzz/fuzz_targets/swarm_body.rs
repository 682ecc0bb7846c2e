//! See `hearth_fuzz::swarm_body`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(swarm_body);
