//! See `hearth_fuzz::agent_question`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(agent_question);
