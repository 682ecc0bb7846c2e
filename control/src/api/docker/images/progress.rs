//! A long job told in lines of JSON while it goes on.

use std::io;

use bytes::Bytes;
use futures_util::stream;
use hearth_image::Progress;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::api::docker::answer::{self, Answer};
use crate::api::docker::errors::ApiError;

/// Lines that a slow client may be behind: far more than an image of the largest number of layers has changes of state.
const QUEUE: usize = 4096;
/// Counters are left out while fewer places than this are free: the next one says all that the last ones did.
const QUEUE_RESERVE: usize = QUEUE / 2;

/// Where a job tells of itself.
#[derive(Clone)]
pub struct Lines(mpsc::Sender<Bytes>);

impl Lines {
    /// What the store reports. `Status` lines of the store are left out: what has come of it is known here, after the commit.
    pub fn progress(&self, progress: &Progress) {
        match progress {
            Progress::PullingFrom { id, .. } => {
                self.value(&json!({ "status": progress.to_string(), "id": id }))
            }
            Progress::Layer { id, state } => {
                let counts = state.counts();
                if counts.is_some() && self.0.capacity() < QUEUE_RESERVE {
                    return;
                }
                let detail = counts.map_or_else(
                    || json!({}),
                    |(current, total)| json!({ "current": current, "total": total }),
                );
                let mut line =
                    json!({ "status": state.to_string(), "progressDetail": detail, "id": id });
                if let Some((current, total)) = counts {
                    line["progress"] = json!(bar(current, total));
                }
                self.value(&line);
            }
            Progress::Status(_) => {}
        }
    }

    /// One line. A client that doesn't read loses lines, and nothing else.
    pub fn value(&self, value: &Value) {
        let _ = self.0.try_send(answer::line(value));
    }
}

/// Runs a job that tells of itself in lines. Where it fails before its first line, the answer is the error's; later, the error is
/// the last line. The job ends when the client goes.
pub async fn answer_with<F, J>(job: J) -> Answer
where
    J: FnOnce(Lines) -> F,
    F: Future<Output = Result<(), ApiError>> + Send + 'static,
{
    let (sender, mut lines) = mpsc::channel(QUEUE);
    let mut task = AbortOnDropHandle::new(tokio::spawn(job(Lines(sender))));
    let Some(first) = lines.recv().await else {
        // The job has dropped its end without a line.
        return match (&mut task).await {
            Ok(Ok(())) => Ok(answer::stream(answer::JSON, stream::empty())),
            Ok(Err(error)) => Err(error),
            Err(panic) => Err(ApiError::internal(format!("the job broke off: {panic}"))),
        };
    };
    let rest = stream::unfold(Some((lines, task)), |going| async move {
        let (mut lines, mut task) = going?;
        if let Some(line) = lines.recv().await {
            return Some((Ok::<_, io::Error>(line), Some((lines, task))));
        }
        let error = match (&mut task).await {
            Ok(Ok(())) => return None,
            Ok(Err(error)) => error,
            Err(panic) => ApiError::internal(format!("the job broke off: {panic}")),
        };
        let message = error.message();
        Some((
            Ok(answer::line(
                &json!({ "errorDetail": { "message": message }, "error": message }),
            )),
            None,
        ))
    });
    let first = stream::iter([Ok(first)]);
    Ok(answer::stream(
        answer::JSON,
        futures_util::StreamExt::chain(first, rest),
    ))
}

/// docker's bar for clients that print it as it is.
fn bar(current: u64, total: u64) -> String {
    let (done, size) = (human(current), human(total));
    if total == 0 {
        return done;
    }
    let filled = (current.min(total) * 50 / total) as usize;
    let head = if filled < 50 { ">" } else { "" };
    format!(
        "[{:<50}] {done:>8}/{size}",
        format!("{}{head}", "=".repeat(filled))
    )
}

fn human(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = if unit == 0 || value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.decimals$}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn text(answer: Answer) -> String {
        String::from_utf8(
            answer
                .unwrap()
                .into_body()
                .collect()
                .await
                .unwrap()
                .to_bytes()
                .to_vec(),
        )
        .unwrap()
    }

    #[tokio::test]
    async fn an_error_before_the_first_line_is_the_answers() {
        let answer = answer_with(|_| async { Err(ApiError::not_found("no such thing")) }).await;
        assert_eq!(answer.err().unwrap().message(), "no such thing");
    }

    #[tokio::test]
    async fn an_error_after_it_is_the_last_line() {
        let answer = answer_with(|lines| async move {
            lines.value(&json!({ "status": "begun" }));
            drop(lines);
            Err(ApiError::internal("broken"))
        });
        let text = text(answer.await).await;
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert_eq!(
            last,
            json!({ "errorDetail": { "message": "broken" }, "error": "broken" })
        );
    }

    #[tokio::test]
    async fn a_job_without_lines_is_an_empty_answer() {
        assert_eq!(text(answer_with(|_| async { Ok(()) }).await).await, "");
    }

    #[test]
    fn the_bar_is_dockers() {
        assert_eq!(
            bar(500_000, 1_000_000),
            format!("[{}>{}]    500kB/1.00MB", "=".repeat(25), " ".repeat(24))
        );
    }
}
