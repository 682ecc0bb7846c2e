//! A store that answers another one, with somebody in the middle who changes what it says.

use std::sync::Mutex;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream};
use hearth_image::{Chunks, Part, Source, SourceError, Store};

/// What comes behind an answer's bytes.
#[derive(Clone, Copy, Debug)]
pub enum Ending {
    End,
    /// The line breaks.
    Break,
    /// More of it, without end.
    Endless,
}

type Change = Box<dyn Fn(&Part, Vec<u8>) -> (Vec<u8>, Ending) + Send + Sync>;

/// Asks a store, changes its answers, and remembers what was asked.
pub struct Middle {
    store: Store,
    change: Change,
    asked: Mutex<Vec<Part>>,
}

impl Middle {
    pub fn new(
        store: &Store,
        change: impl Fn(&Part, Vec<u8>) -> (Vec<u8>, Ending) + Send + Sync + 'static,
    ) -> Self {
        Self {
            store: store.clone(),
            change: Box::new(change),
            asked: Mutex::default(),
        }
    }

    /// Changes nothing.
    pub fn honest(store: &Store) -> Self {
        Self::new(store, |_, bytes| (bytes, Ending::End))
    }

    /// Breaks the line after so many bytes of the parts that `is` tells.
    pub fn cut(store: &Store, is: fn(&Part) -> bool, after: usize) -> Self {
        Self::new(store, move |part, mut bytes| match is(part) {
            true => {
                bytes.truncate(after);
                (bytes, Ending::Break)
            }
            false => (bytes, Ending::End),
        })
    }

    /// Changes a byte of the parts that `is` tells.
    pub fn flip(store: &Store, is: fn(&Part) -> bool, at: usize, mask: u8) -> Self {
        Self::new(store, move |part, mut bytes| {
            if is(part) {
                bytes[at] ^= mask;
            }
            (bytes, Ending::End)
        })
    }

    pub fn asked(&self) -> Vec<Part> {
        self.asked.lock().unwrap().clone()
    }

    /// The pieces that roots were asked for from.
    pub fn roots_asked(&self) -> Vec<u32> {
        let from = |part| match part {
            Part::Root { from, .. } => Some(from),
            _ => None,
        };
        self.asked().into_iter().filter_map(from).collect()
    }
}

impl Source for Middle {
    fn fetch(&self, part: Part) -> BoxFuture<'_, Result<Chunks, SourceError>> {
        async move {
            self.asked.lock().unwrap().push(part);
            let bytes = all(self.store.fetch(part).await?).await?;
            let (bytes, ending) = (self.change)(&part, bytes);
            // Of odd lengths, so that nothing ends where a chunk does.
            let chunks: Vec<_> = bytes.chunks(50_021).map(Bytes::copy_from_slice).collect();
            let chunks = stream::iter(chunks.into_iter().map(Ok));
            Ok(match ending {
                Ending::End => chunks.boxed(),
                Ending::Break => {
                    let broken = Err(SourceError("the line is broken".to_owned()));
                    chunks.chain(stream::iter([broken])).boxed()
                }
                Ending::Endless => chunks
                    .chain(stream::repeat_with(|| Ok(Bytes::from_static(&[7; 1000]))))
                    .boxed(),
            })
        }
        .boxed()
    }
}

/// All bytes of an answer.
pub async fn all(chunks: Chunks) -> Result<Vec<u8>, SourceError> {
    let chunks: Vec<Bytes> = chunks.try_collect().await?;
    Ok(chunks.concat())
}

pub fn is_description(part: &Part) -> bool {
    matches!(part, Part::Description { .. })
}

pub fn is_root(part: &Part) -> bool {
    matches!(part, Part::Root { .. })
}

pub fn is_layer(part: &Part) -> bool {
    matches!(part, Part::Layer { .. })
}
