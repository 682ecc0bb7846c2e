//! See `hearth_fuzz::image_config`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(image_config);
