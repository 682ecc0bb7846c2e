//! A service that does a little of everything.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::peers::{PeerError, RecvHalf, Refusal, RefusalKind, SendHalf, Service};
use crate::state::NodeId;

/// What it has come to.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    Begun,
    Dropped,
    /// A stream's other side has let go.
    Cancelled,
    /// A stream has ended in order.
    Finished,
}

pub struct Desk {
    events: mpsc::UnboundedSender<Event>,
    /// Bytes that streams have been given to send.
    pub sent: AtomicUsize,
}

impl Desk {
    pub fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<Event>) {
        let (events, happened) = mpsc::unbounded_channel();
        let sent = AtomicUsize::new(0);
        (Arc::new(Self { events, sent }), happened)
    }

    fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }

    async fn echo(
        &self,
        first: Bytes,
        mut send: SendHalf,
        mut receive: RecvHalf,
    ) -> Result<(), PeerError> {
        send.send(first).await?;
        while let Some(data) = receive.recv().await? {
            send.send(data).await?;
        }
        send.finish()
    }

    async fn flood(&self, send: &mut SendHalf) -> PeerError {
        let data = Bytes::from(vec![7; 60_000]);
        loop {
            if let Err(error) = send.send(data.clone()).await {
                return error;
            }
            self.sent.fetch_add(data.len(), Ordering::SeqCst);
        }
    }
}

struct Held<'a>(&'a Desk);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.tell(Event::Dropped);
    }
}

#[async_trait]
impl Service for Desk {
    fn is_for_strangers(&self, path: &str) -> bool {
        path == "/join"
    }

    async fn call(&self, from: Option<NodeId>, path: &str, body: Bytes) -> Result<Bytes, Refusal> {
        match path {
            "/echo" | "/join" | "/raft" => Ok(body),
            "/who" => Ok(from.map_or(String::new(), |node| node.0.to_string()).into()),
            "/never" => {
                let _held = Held(self);
                self.tell(Event::Begun);
                std::future::pending().await
            }
            path => Err(Refusal::unknown(path)),
        }
    }

    async fn open(
        &self,
        _: Option<NodeId>,
        path: &str,
        first: Bytes,
        mut send: SendHalf,
        mut receive: RecvHalf,
    ) {
        match path {
            "/echo" => match self.echo(first, send, receive).await {
                Ok(()) => {}
                Err(PeerError::Cancelled { .. }) => self.tell(Event::Cancelled),
                Err(error) => panic!("{error}"),
            },
            "/flood" => {
                self.flood(&mut send).await;
                self.tell(Event::Cancelled);
            }
            // Reads nothing, and says nothing.
            "/deaf" => {
                self.tell(Event::Begun);
                send.gone().await;
                self.tell(Event::Cancelled);
            }
            // Until it has heard something.
            "/vanish" => {
                send.send(first).await.unwrap();
                receive.recv().await.unwrap();
            }
            "/fail" => {
                send.send(first).await.unwrap();
                send.fail(&Refusal::new(RefusalKind::Busy, "no more"))
                    .unwrap();
            }
            // Says much, and its end at once; hears nothing.
            "/say" => {
                for n in 0..50u8 {
                    send.feed(&[n], vec![n; 50_000].into()).await.unwrap();
                    send.feed(&[n], vec![n; 5].into()).await.unwrap();
                }
                send.finish().unwrap();
                drop(receive);
                self.tell(Event::Finished);
            }
            "/hear" => {
                let mut heard = 0;
                while let Ok(Some(data)) = receive.recv().await {
                    heard += data.len();
                }
                let heard = Bytes::from(heard.to_string());
                let _ = send.send(heard).await;
                let _ = send.finish();
            }
            path => send.fail(&Refusal::unknown(path)).unwrap(),
        }
    }
}
