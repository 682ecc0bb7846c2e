//! A stream of a stranger, read in lengths that we know, and no longer than we care to wait.

use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use sha2::{Digest as _, Sha256};

use super::{
    Chunks, Part, Source,
    packed::{HEAD_BYTES, Head},
};
use crate::{Digest, Error};

/// A piece that takes longer to come, or an answer that takes longer to begin, is given up: 4 MiB in a minute is a thirtieth of what any
/// link between nodes has, and a store that is asked for the first time reads a whole root file system before it answers.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes taken together: no stranger makes this store reserve more than that before it has sent them.
const RESERVED_BYTES: usize = 64 << 10;

/// The answer of another store.
pub(crate) struct Received {
    part: Part,
    chunks: Chunks,
    rest: Bytes,
    patience: Duration,
    hasher: Option<Sha256>,
}

impl Received {
    /// Asks.
    pub(crate) async fn of(
        source: &dyn Source,
        part: Part,
        patience: Duration,
    ) -> Result<Self, Error> {
        let asked = tokio::time::timeout(patience, source.fetch(part)).await;
        let chunks = match asked {
            Ok(answer) => answer.map_err(|err| failed(&part, err.0))?,
            Err(_) => return Err(failed(&part, silence(patience))),
        };
        Ok(Self {
            part,
            chunks,
            rest: Bytes::new(),
            patience,
            hasher: None,
        })
    }

    /// The next so many bytes.
    pub(crate) async fn take(&mut self, count: usize) -> Result<Vec<u8>, Error> {
        let patience = self.patience;
        match tokio::time::timeout(patience, self.take_patiently(count)).await {
            Ok(taken) => taken,
            Err(_) => Err(failed(&self.part, silence(patience))),
        }
    }

    async fn take_patiently(&mut self, count: usize) -> Result<Vec<u8>, Error> {
        let mut taken = Vec::with_capacity(count.min(RESERVED_BYTES));
        while taken.len() < count {
            if self.rest.is_empty() {
                self.rest = match self.chunks.next().await {
                    Some(Ok(chunk)) if chunk.is_empty() => {
                        return Err(self.lied("an empty chunk was sent"));
                    }
                    Some(Ok(chunk)) => chunk,
                    Some(Err(err)) => return Err(failed(&self.part, err.0)),
                    None => return Err(failed(&self.part, "it was cut short".to_owned())),
                };
            }
            let now = self.rest.len().min(count - taken.len());
            taken.extend_from_slice(&self.rest[..now]);
            self.rest.advance(now);
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&taken);
        }
        Ok(taken)
    }

    /// What is taken from now on is hashed.
    pub(crate) fn hash(&mut self) {
        self.hasher = Some(Sha256::new());
    }

    /// The digest of what was taken since.
    pub(crate) fn hashed(&mut self) -> Digest {
        Digest::finish(self.hasher.take().unwrap_or_default())
    }

    /// A document with its length before it.
    pub(crate) async fn document(&mut self, what: &str, limit: u64) -> Result<Vec<u8>, Error> {
        let length = self.take(4).await?;
        let length = length
            .iter()
            .rev()
            .fold(0, |sum, &byte| sum << 8 | u64::from(byte));
        if length > limit {
            return Err(self.lied(&format!("{what} of {length} bytes, over {limit}")));
        }
        self.take(length as usize).await
    }

    /// A piece of so many bytes, as it is packed.
    pub(crate) async fn piece(&mut self, plain_bytes: usize) -> Result<(Head, Vec<u8>), Error> {
        let mut head = [0; HEAD_BYTES];
        head.copy_from_slice(&self.take(HEAD_BYTES).await?);
        let head = Head::read(head, plain_bytes)
            .ok_or_else(|| self.lied("a piece of it has an impossible head"))?;
        Ok((head, self.take(head.length).await?))
    }

    pub(crate) fn lied(&self, reason: &str) -> Error {
        lied(&self.part, reason)
    }
}

fn failed(part: &Part, reason: String) -> Error {
    Error::SourceFailed {
        what: part.to_string(),
        reason,
    }
}

/// What came isn't what it must be.
pub(crate) fn lied(part: &Part, reason: impl Into<String>) -> Error {
    Error::SourceLied {
        what: part.to_string(),
        reason: reason.into(),
    }
}

fn silence(patience: Duration) -> String {
    format!("too little came within {} s", patience.as_secs())
}

#[cfg(test)]
mod tests {
    use futures_util::{
        FutureExt,
        future::{self, BoxFuture},
        stream,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::{ImageId, SourceError};

    fn part() -> Part {
        Part::Description {
            image: ImageId::from(Digest::of(b"an image")),
        }
    }

    /// Answers with what a closure gives.
    struct Answers<F>(F);

    impl<F: Fn() -> Chunks + Send + Sync> Source for Answers<F> {
        fn fetch(&self, _: Part) -> BoxFuture<'_, Result<Chunks, SourceError>> {
            future::ready(Ok((self.0)())).boxed()
        }
    }

    #[tokio::test]
    async fn a_source_that_is_silent_or_trickles_is_given_up() {
        let patience = Duration::from_millis(1);
        let silent = Answers(|| stream::pending().boxed());
        let mut received = Received::of(&silent, part(), patience).await.unwrap();
        let err = received.take(1).await.unwrap_err();
        assert!(matches!(err, Error::SourceFailed { .. }), "{err:?}");

        // Each chunk comes in time, and all of them never.
        let trickle = Answers(|| {
            let chunks = stream::repeat_with(|| Ok(Bytes::from_static(b"x")));
            chunks
                .then(|chunk| async {
                    tokio::task::yield_now().await;
                    chunk
                })
                .boxed()
        });
        let mut received = Received::of(&trickle, part(), patience).await.unwrap();
        let err = received.take(usize::MAX).await.unwrap_err();
        assert!(matches!(err, Error::SourceFailed { .. }), "{err:?}");
    }

    #[tokio::test]
    async fn a_source_that_never_answers_is_given_up() {
        struct Mute;
        impl Source for Mute {
            fn fetch(&self, _: Part) -> BoxFuture<'_, Result<Chunks, SourceError>> {
                future::pending().boxed()
            }
        }
        let asked = Received::of(&Mute, part(), Duration::from_millis(1)).await;
        assert!(matches!(asked, Err(Error::SourceFailed { .. })));
    }

    #[tokio::test]
    async fn chunks_of_nothing_are_refused() {
        let empty = Answers(|| stream::repeat_with(|| Ok(Bytes::new())).boxed());
        let mut received = Received::of(&empty, part(), PATIENCE).await.unwrap();
        let err = received.take(1).await.unwrap_err();
        assert!(matches!(err, Error::SourceLied { .. }), "{err:?}");
    }

    proptest! {
        #[test]
        fn however_bytes_are_cut_into_chunks_they_are_the_same(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..20),
            takes in prop::collection::vec(0..50usize, 0..20),
        ) {
            let all = chunks.concat();
            let source = Answers(move || {
                let chunks: Vec<_> = chunks.iter().map(|chunk| Ok(chunk.clone().into())).collect();
                stream::iter(chunks).boxed()
            });
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async move {
                let mut received = Received::of(&source, part(), PATIENCE).await.unwrap();
                let mut at = 0;
                for count in takes {
                    match received.take(count).await {
                        Ok(taken) => assert_eq!(taken, &all[at..at + count]),
                        Err(err) => {
                            assert!(at + count > all.len(), "{err}");
                            return;
                        }
                    }
                    at += count;
                }
            });
        }

        #[test]
        fn any_head_and_any_body_end(head in any::<[u8; HEAD_BYTES]>(), body in prop::collection::vec(any::<u8>(), 1..200)) {
            if let Some(head) = Head::read(head, 200) {
                prop_assert!(head.length <= 200);
            }
            let head = [vec![1], (body.len() as u32).to_le_bytes().to_vec()].concat();
            let head = Head::read(head.try_into().unwrap(), 200).unwrap();
            if let Ok(plain) = super::super::packed::unpack(head, body, 200) {
                prop_assert!(plain.len() <= 200);
            }
        }
    }

    #[test]
    fn a_bomb_is_cut_off() {
        let bomb = zstd::bulk::compress(&vec![0; 1 << 20], 1).unwrap();
        let head = [vec![1], (bomb.len() as u32).to_le_bytes().to_vec()].concat();
        let head = Head::read(head.try_into().unwrap(), 4096).unwrap();
        assert!(super::super::packed::unpack(head, bomb, 4096).is_err());
    }
}
