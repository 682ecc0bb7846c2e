//! Writes one of the test images as an archive for `docker load`: `cargo run -p hearth-tests --example image -- nginx nginx.tar`.

use anyhow::{Context, Result, bail};
use hearth_tests::images;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(name), Some(path)) = (arguments.next(), arguments.next()) else {
        bail!("usage: image NAME FILE");
    };
    let image = match name.as_str() {
        "busybox" => images::busybox(),
        "nginx" => images::nginx(),
        "redis" => images::redis(),
        "postgresql" => images::postgresql(),
        "python" => images::python(),
        _ => bail!("there is no test image {name}"),
    };
    std::fs::write(&path, image.docker_archive(&format!("{name}:latest")))
        .with_context(|| format!("writing {path}"))
}
