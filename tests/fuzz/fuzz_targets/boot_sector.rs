//! See `hearth_fuzz::boot_sector`.
#![cfg_attr(fuzzing, no_main)]

hearth_fuzz::fuzz!(boot_sector);
