//! The threat model, end to end: a real controller and real agents over real TLS, and somebody who means harm.
//!
//! Each test begins with the number of the threat (T) or fault (F) that it answers: stolen tokens (`join`), stolen
//! keys (`stolen`), hostile signing requests (`requests`), calls above one's right (`rights`), a hostile controller
//! (`packs`, `orders`), downgrades (`versions`), names that would be commands (`names`), peers that are slow
//! (`starving`), silent (`silence`) or talk nonsense (`nonsense`), secrets (`secrets`, `canary`), and texts that nobody wrote
//! (`decoders`), and words that are meant to do harm (`lies`), and orders to load balancers (`balancers`). `raw` is the attacker's client, `usurper` its controller,
//! `liar` its compiler.

#![expect(
    clippy::unwrap_used,
    reason = "what helps tests, outside of the functions that clippy knows as tests"
)]

mod balancers;
mod canary;
mod decoders;
mod join;
mod liar;
mod lies;
mod names;
mod nonsense;
mod orders;
mod packs;
mod raw;
mod requests;
mod rights;
mod secrets;
mod silence;
mod starving;
mod stolen;
mod usurper;
mod versions;
