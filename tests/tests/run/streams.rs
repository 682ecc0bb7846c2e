//! Standard input, output and error: every byte, in order, apart, to the end.

use crate::setup;

/// Bytes that no text layer would leave alone, and long enough to need many frames.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..length)
        .map(|_| {
            // xorshift64: any generator that repeats itself does.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[7]
        })
        .collect()
}

#[test]
fn output_and_error_stay_apart() {
    let (docker, busybox) = setup();
    let done = docker
        .run(&[
            "run",
            "--rm",
            &busybox,
            "sh",
            "-c",
            "echo one; echo two >&2",
        ])
        .exits(0);
    assert_eq!(done.text(), "one\n");
    assert_eq!(done.stderr, "two\n");
}

#[test]
fn a_pipe_through_a_container_loses_nothing() {
    let (docker, busybox) = setup();
    let input = noise(3 << 20);
    let done = docker
        .run_with_input(&["run", "--rm", "-i", &busybox, "cat"], &input)
        .exits(0);
    assert_eq!(done.stdout.len(), input.len(), "bytes through the pipe");
    assert!(done.stdout == input, "the bytes came, but not as they went");
}

#[test]
fn the_end_of_standard_input_arrives() {
    let (docker, busybox) = setup();
    let done = docker
        .run_with_input(&["run", "--rm", "-i", &busybox, "wc", "-c"], b"12345")
        .exits(0);
    assert_eq!(done.text().trim(), "5");
    let empty = docker
        .run_with_input(&["run", "--rm", "-i", &busybox, "wc", "-c"], b"")
        .exits(0);
    assert_eq!(empty.text().trim(), "0");
}

#[test]
fn output_after_the_end_of_input_still_arrives() {
    let (docker, busybox) = setup();
    let script = "cat > /dev/null; echo after; echo error after >&2; exit 3";
    let done = docker
        .run_with_input(&["run", "--rm", "-i", &busybox, "sh", "-c", script], b"x")
        .exits(3);
    assert_eq!(done.text(), "after\n");
    assert_eq!(done.stderr, "error after\n");
}

#[test]
fn without_i_standard_input_is_empty() {
    let (docker, busybox) = setup();
    let done = docker
        .run_with_input(&["run", "--rm", &busybox, "cat"], b"not for you")
        .exits(0);
    assert_eq!(done.text(), "");
}

#[test]
fn input_and_output_interleave_line_by_line() {
    let (docker, busybox) = setup();
    let script = "while read line; do echo got $line; done; echo end";
    let mut running = docker.start(&["run", "--rm", "-i", &busybox, "sh", "-c", script]);
    for line in ["first", "second"] {
        running.write(&format!("{line}\n"));
        running.stdout.wait_for(&format!("got {line}\n"));
    }
    assert_eq!(
        running.finish().exits(0).text(),
        "got first\ngot second\nend\n"
    );
}

#[test]
fn much_output_that_is_read_late_comes_whole() {
    let (docker, busybox) = setup();
    let done = docker
        .run(&["run", "--rm", &busybox, "seq", "1", "200000"])
        .exits(0);
    let expected: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    assert!(
        done.text() == expected,
        "{} bytes came of {}",
        done.stdout.len(),
        expected.len()
    );
}

#[test]
fn a_reader_that_goes_away_ends_the_pipe_and_not_the_node() {
    let (docker, busybox) = setup();
    let running = docker.start(&["run", "--rm", &busybox, "yes"]);
    running.stdout.wait_for("y\ny\n");
    drop(running);
    docker.run(&["run", "--rm", &busybox, "true"]).exits(0);
}
