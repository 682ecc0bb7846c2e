//! What this process commands a monitor: one line of JSON there, one back ([`hearth_vmm_api`]).

use std::io;
use std::path::Path;
use std::time::Duration;

use hearth_vmm_api::{Answer, Command};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// A monitor answers at once, between two events; one that doesn't within this is stuck.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of an answer: whoever may have broken into a monitor doesn't fill memory.
const ANSWER_MAX: u64 = 64 << 10;

/// Returns once it is done.
pub async fn command(socket: &Path, command: Command) -> io::Result<()> {
    let asked = async {
        let mut stream = UnixStream::connect(socket).await?;
        let mut line = serde_json::to_vec(&command)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut answer = String::new();
        BufReader::new(stream.take(ANSWER_MAX))
            .read_line(&mut answer)
            .await?;
        match serde_json::from_str(&answer)? {
            Answer::Done => Ok(()),
            Answer::Error(why) => Err(io::Error::other(why)),
            Answer::Description(_) => Err(io::Error::other("it answered something else")),
        }
    };
    tokio::time::timeout(PATIENCE, asked)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    async fn answered(answer: &'static str) -> io::Result<()> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api");
        let listener = UnixListener::bind(&path).unwrap();
        let monitor = async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            let mut asked = String::new();
            stream.read_line(&mut asked).await.unwrap();
            assert_eq!(asked, "\"pause\"\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        tokio::join!(command(&path, Command::Pause), monitor).0
    }

    #[tokio::test]
    async fn it_is_done_where_the_monitor_says_so_and_nowhere_else() {
        answered("\"done\"\n").await.unwrap();
        let refused = answered("{\"error\":\"not now\"}\n").await.unwrap_err();
        assert_eq!(refused.to_string(), "not now");
        for nonsense in ["", "\n", "[", "\"pause\"\n"] {
            answered(nonsense).await.unwrap_err();
        }
        let dir = tempfile::tempdir().unwrap();
        command(&dir.path().join("none"), Command::Pause)
            .await
            .unwrap_err();
    }
}
