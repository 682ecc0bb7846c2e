//! One microVM. Started by the controller; see `hearth_vmm_api` for how.

use std::process::ExitCode;

fn main() -> ExitCode {
    hearth_vmm::failure::prepare();
    match hearth_vmm::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("vmm: {failure}");
            ExitCode::from(hearth_vmm::failure::STATUS_ERROR as u8)
        }
    }
}
