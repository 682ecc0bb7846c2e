//! PID 1 of the microVM.
#![no_main]

/// The C library's entry. std's own would end the process where descriptors 0 to 2 are closed and /dev/null isn't there to stand in for
/// them, which is how a kernel without a console starts its first process.
// SAFETY: nothing else in this program is called `main`.
#[unsafe(no_mangle)]
pub extern "C" fn main(_argc: libc::c_int, _argv: *const *const libc::c_char) -> libc::c_int {
    hearth_guest_init::main(std::env::args_os())
}
