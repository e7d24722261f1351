//! One suite for every wire: QUIC over loopback sockets, a file drop, and doubles that misbehave as much as the contract
//! allows. What only one wire can get wrong is tested beside it.

mod authority;
mod double;
mod drop;
mod quic;
mod suite;
