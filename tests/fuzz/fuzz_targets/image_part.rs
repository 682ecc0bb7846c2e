//! See `hearth_fuzz::image_part`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(image_part);
