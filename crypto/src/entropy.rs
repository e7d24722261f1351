//! Where randomness comes from: the system in production, a seed in the simulation.

use crate::Error;
use hpke::rand_core::{TryCryptoRng, TryRng};
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use std::convert::Infallible;

/// A source of random bytes.
pub trait Entropy: Send {
    /// Fills the buffer.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Error>;

    /// 64 random bits.
    fn number(&mut self) -> Result<u64, Error> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// The operating system's source.
#[derive(Debug)]
pub struct SystemEntropy(SystemRandom);

impl Default for SystemEntropy {
    fn default() -> Self {
        Self(SystemRandom::new())
    }
}

impl Entropy for SystemEntropy {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        self.0.fill(buffer).map_err(|_| Error::Entropy)
    }
}

/// A deterministic stream (SHA-256 in counter mode). For the simulation and for tests only: whoever knows the seed knows
/// every key.
#[derive(Clone, Debug)]
pub struct SeededEntropy {
    seed: u64,
    counter: u64,
}

impl SeededEntropy {
    /// The stream of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, counter: 0 }
    }
}

impl Entropy for SeededEntropy {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        for chunk in buffer.chunks_mut(32) {
            let mut input = [0; 16];
            input[..8].copy_from_slice(&self.seed.to_le_bytes());
            input[8..].copy_from_slice(&self.counter.to_le_bytes());
            self.counter += 1;
            let block = digest::digest(&digest::SHA256, &input);
            chunk.copy_from_slice(&block.as_ref()[..chunk.len()]);
        }
        Ok(())
    }
}

/// Randomness fetched beforehand, in the shape that the `hpke` crate asks for: it cannot fail half-way.
pub(crate) struct Fetched {
    bytes: [u8; 64],
    used: usize,
}

impl Fetched {
    pub(crate) fn new(entropy: &mut dyn Entropy) -> Result<Self, Error> {
        let mut bytes = [0; 64];
        entropy.fill(&mut bytes)?;
        Ok(Self { bytes, used: 0 })
    }
}

impl TryRng for Fetched {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, buffer: &mut [u8]) -> Result<(), Infallible> {
        let end = self.used + buffer.len();
        // X25519 encapsulation draws 32 bytes once; running dry would mean the library changed under us.
        assert!(end <= self.bytes.len(), "HPKE drew more randomness than one X25519 encapsulation needs");
        buffer.copy_from_slice(&self.bytes[self.used..end]);
        self.used = end;
        Ok(())
    }
}

impl TryCryptoRng for Fetched {}
