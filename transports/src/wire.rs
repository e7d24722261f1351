//! Frames on an ordered stream of bytes.
//!
//! ```text
//! stream = frame*        frame = length u32 big-endian (1 … FRAME_BYTES) | bytes
//! ```
//! A stream may end between frames only. A length out of range is refused before anything is allocated for it.

use crate::Error;
use bytes::{BufMut, Bytes, BytesMut};
use jincai_types::limits;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Frames up to this size are gathered, so that many small ones cost one call; larger ones are not copied.
pub(crate) const GATHER_BYTES: usize = 64 << 10;

fn lost(error: &std::io::Error) -> Error {
    Error::Lost { reason: error.to_string() }
}

/// Writes frames in order. `buffer` is scratch space and is left empty.
pub(crate) async fn write_frames<W: AsyncWrite + Unpin>(
    writer: &mut W,
    frames: impl IntoIterator<Item = Bytes>,
    buffer: &mut BytesMut,
) -> Result<(), Error> {
    for frame in frames {
        let size = frame.len() as u64;
        let length = u32::try_from(size).map_err(|_| Error::FrameSize { size })?;
        buffer.put_u32(length);
        let gathered = buffer.len() + frame.len() <= GATHER_BYTES;
        if gathered {
            buffer.put_slice(&frame);
            continue;
        }
        writer.write_all(buffer).await.map_err(|e| lost(&e))?;
        buffer.clear();
        writer.write_all(&frame).await.map_err(|e| lost(&e))?;
    }
    writer.write_all(buffer).await.map_err(|e| lost(&e))?;
    buffer.clear();
    writer.flush().await.map_err(|e| lost(&e))
}

/// Reads the next frame; `None` if the stream has ended between frames.
pub(crate) async fn read_frame<R: AsyncRead + Unpin>(reader: &mut R) -> Result<Option<Vec<u8>>, Error> {
    let mut head = [0; 4];
    // The first byte tells an end between frames from one within a frame.
    if reader.read(&mut head[..1]).await.map_err(|e| lost(&e))? == 0 {
        return Ok(None);
    }
    exactly(reader, &mut head[1..]).await?;
    let length = u32::from_be_bytes(head);
    let size = usize::try_from(length).unwrap_or(usize::MAX);
    if size == 0 || size > limits::FRAME_BYTES {
        return Err(Error::FrameSize { size: u64::from(length) });
    }
    let mut frame = vec![0; size];
    exactly(reader, &mut frame).await?;
    Ok(Some(frame))
}

async fn exactly<R: AsyncRead + Unpin>(reader: &mut R, buffer: &mut [u8]) -> Result<(), Error> {
    match reader.read_exact(buffer).await {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err(Error::Protocol("a stream ended within a frame"))
        }
        Err(e) => Err(lost(&e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("runtime").block_on(future)
    }

    async fn read_all(mut bytes: &[u8]) -> (Vec<Vec<u8>>, Option<Error>) {
        let mut frames = Vec::new();
        loop {
            match read_frame(&mut bytes).await {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => return (frames, None),
                Err(error) => return (frames, Some(error)),
            }
        }
    }

    #[test]
    fn lengths_out_of_range_are_refused() {
        for length in [0, limits::FRAME_BYTES as u32 + 1, u32::MAX] {
            let (frames, error) = run(read_all(&length.to_be_bytes()));
            assert!(frames.is_empty());
            assert!(matches!(error, Some(Error::FrameSize { size }) if size == u64::from(length)), "{length}");
        }
    }

    proptest! {
        #[test]
        fn frames_round_trip_and_a_cut_loses_only_the_last(
            sizes in prop::collection::vec(prop_oneof![4 => 1usize..2000, 1 => 60_000usize..140_000], 1..12),
            cut in any::<prop::sample::Index>(),
        ) {
            let frames: Vec<Bytes> = sizes.iter().enumerate().map(|(i, n)| vec![i as u8; *n].into()).collect();
            let mut bytes = Vec::new();
            run(write_frames(&mut bytes, frames.clone(), &mut BytesMut::new())).expect("a Vec takes all");
            let (read, error) = run(read_all(&bytes));
            prop_assert!(error.is_none());
            prop_assert_eq!(&read, &frames);

            let (some, error) = run(read_all(&bytes[..cut.index(bytes.len())]));
            prop_assert!(frames.starts_with(&some.into_iter().map(Bytes::from).collect::<Vec<_>>()));
            prop_assert!(error.is_none_or(|e| matches!(e, Error::Protocol(_))));
        }
    }
}
