//! One QUIC connection as a [`Session`]: four unidirectional streams each way at most.

use super::refusal::{Close, explain};
use crate::{Error, Meter, Session, WireBytes};
use jincai_types::Priority;
use quinn::{Connection, RecvStream, SendStream, VarInt};
use std::sync::{Mutex, PoisonError};

/// The greeting: an empty frame, which is no frame anywhere else.
const GREETING: [u8; 4] = [0; 4];

/// A connection whose two ends know each other.
pub(crate) struct QuicSession {
    connection: Connection,
    /// The accepting end's control stream, opened for the greeting.
    control: Mutex<Option<SendStream>>,
    /// The same stream at the calling end, read up to the greeting.
    greeted: Mutex<Option<RecvStream>>,
}

impl QuicSession {
    /// At the accepting end, once the caller is known.
    pub(crate) async fn greet(connection: Connection) -> Result<Self, Error> {
        let mut control = open(&connection, Priority::Control).await?;
        control.write_all(&GREETING).await.map_err(|e| Error::Lost { reason: e.to_string() })?;
        Ok(Self { connection, control: Mutex::new(Some(control)), greeted: Mutex::new(None) })
    }

    /// At the calling end: waits for the greeting.
    pub(crate) async fn await_greeting(connection: Connection) -> Result<Self, Error> {
        let mut stream = connection.accept_uni().await.map_err(|e| explain(&e))?;
        let mut greeting = [1; 4];
        if let Err(error) = stream.read_exact(&mut greeting).await {
            // Refused is what a connection says of itself; a stream only says that it ended.
            let lost = || Error::Lost { reason: error.to_string() };
            return Err(connection.close_reason().map_or_else(lost, |why| explain(&why)));
        }
        if greeting != GREETING {
            let error = Error::Protocol("it does not greet");
            connection.close(Close::Broken.code(), error.to_string().as_bytes());
            return Err(error);
        }
        Ok(Self { connection, control: Mutex::new(None), greeted: Mutex::new(Some(stream)) })
    }

    /// The connection itself, to watch its end.
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }
}

fn take<T>(place: &Mutex<Option<T>>) -> Option<T> {
    place.lock().unwrap_or_else(PoisonError::into_inner).take()
}

async fn open(connection: &Connection, class: Priority) -> Result<SendStream, Error> {
    let stream = connection.open_uni().await.map_err(|e| explain(&e))?;
    // quinn sends streams of a higher number first.
    let urgency = match class {
        Priority::Control => 3,
        Priority::Interactive => 2,
        Priority::Record => 1,
        Priority::Bulk => 0,
    };
    stream.set_priority(urgency).map_err(|e| Error::Lost { reason: e.to_string() })?;
    Ok(stream)
}

impl Session for QuicSession {
    type Writer = SendStream;
    type Reader = RecvStream;

    async fn open(&self, class: Priority) -> Result<SendStream, Error> {
        if class == Priority::Control
            && let Some(stream) = take(&self.control)
        {
            return Ok(stream);
        }
        open(&self.connection, class).await
    }

    async fn finish(&self, mut writer: SendStream) -> Result<(), Error> {
        let lost = |e: &dyn std::error::Error| Error::Lost { reason: e.to_string() };
        writer.finish().map_err(|e| lost(&e))?;
        writer.stopped().await.map(|_code| ()).map_err(|e| lost(&e))
    }

    async fn accept(&self) -> Result<RecvStream, Error> {
        match take(&self.greeted) {
            Some(stream) => Ok(stream),
            None => self.connection.accept_uni().await.map_err(|e| explain(&e)),
        }
    }

    async fn closed(&self) -> Error {
        explain(&self.connection.closed().await)
    }

    fn meter(&self) -> Option<Meter> {
        let connection = self.connection.clone();
        Some(Box::new(move || {
            let stats = connection.stats();
            WireBytes { sent: stats.udp_tx.bytes, received: stats.udp_rx.bytes }
        }))
    }

    fn close(&self, why: &Error) {
        let code: VarInt = Close::from(why).code();
        self.connection.close(code, why.to_string().as_bytes());
    }
}
