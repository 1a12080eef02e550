//! How keys and values are laid out in the tables: big-endian, so that bytes sort as numbers do.
//!
//! ```text
//!   table       key                      value
//!   Meta        name                     u64
//!   Records     position                 Record, with its checksum
//!   Ids         publisher, id            position, sequence, accepted_at, hash
//!   IdOrder     position                 key in Ids: which id is the oldest
//!   Pairs       position, recipient      state, since when: evidence of every pair
//!   Pending     recipient, position      expires_at, accepted_at, collapse key: what waits for whom
//!   Open        position                 how many pairs are pending
//!   Expiry      expires_at, position     -: what is due
//!   Closed      since when, position     -: settled for everyone, in order of removal
//!   Collapse    recipient, topic, key    position: which one a newer one supersedes
//!   Topics      topic                    last sequence
//!   Recipients  name                     number
//!   Notes       name                     what the caller keeps with a recipient
//!   Depths      recipient                how many records wait; no row for none
//! ```
//!
//! A publish writes a fixed number of rows and two or three a recipient; an ack of one position touches
//! a fixed number.
#![forbid(unsafe_code)]

use crate::store::StoreError;
use crate::types::PairState;

/// The version of the layout above. A journal with a newer one is refused, for which every version must be able
/// to read this row: its table, key, value and checksum never change.
pub(crate) const FORMAT: u64 = 1;
pub(crate) const META_FORMAT: &[u8] = b"format";
pub(crate) const META_POSITION: &[u8] = b"position";
pub(crate) const META_NUMBER: &[u8] = b"next_number";

/// Stands for "never" among times.
pub(crate) const NEVER: i64 = i64::MAX;

/// Times sort as numbers when their sign is turned over.
fn time_bytes(time: i64) -> [u8; 8] {
    ((time as u64) ^ (1 << 63)).to_be_bytes()
}

fn time_from(bytes: [u8; 8]) -> i64 {
    (u64::from_be_bytes(bytes) ^ (1 << 63)) as i64
}

pub(crate) fn position(position: u64) -> [u8; 8] {
    position.to_be_bytes()
}

pub(crate) fn pair(position: u64, number: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&position.to_be_bytes());
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

pub(crate) fn pending(number: u32, position: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&number.to_be_bytes());
    key[4..].copy_from_slice(&position.to_be_bytes());
    key
}

/// Also the key of `Closed`.
pub(crate) fn timed(time: i64, position: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&time_bytes(time));
    key[8..].copy_from_slice(&position.to_be_bytes());
    key
}

pub(crate) fn id(publisher: &str, id: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(2 + publisher.len() + id.len());
    key.extend_from_slice(&(publisher.len() as u16).to_be_bytes());
    key.extend_from_slice(publisher.as_bytes());
    key.extend_from_slice(id);
    key
}

/// What [`id`] was made from.
pub(crate) fn id_parts(key: &[u8]) -> Result<(&str, &[u8]), StoreError> {
    let mut fields = Fields(key);
    let publisher = fields.text()?;
    Ok((publisher, fields.0))
}

/// The recipient's number stands in front; see [`with_number`].
pub(crate) fn collapse(topic: &str, key: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + topic.len() + key.len());
    bytes.extend_from_slice(&(topic.len() as u16).to_be_bytes());
    bytes.extend_from_slice(topic.as_bytes());
    bytes.extend_from_slice(key.as_bytes());
    bytes
}

pub(crate) fn with_number(number: u32, rest: &[u8]) -> Vec<u8> {
    [&number.to_be_bytes(), rest].concat()
}

/// A cursor over a key or value that was written above.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], StoreError> {
        let (field, rest) =
            self.0.split_at_checked(len).ok_or_else(|| StoreError::damaged("a row is too short"))?;
        self.0 = rest;
        Ok(field)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        Ok(self.bytes(N)?.try_into().expect("as long as asked for"))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, StoreError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, StoreError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, StoreError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub(crate) fn time(&mut self) -> Result<i64, StoreError> {
        Ok(time_from(self.array()?))
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, StoreError> {
        let len = usize::from(self.u16()?);
        text(self.bytes(len)?)
    }
}

pub(crate) fn text(bytes: &[u8]) -> Result<&str, StoreError> {
    std::str::from_utf8(bytes).map_err(|_| StoreError::damaged("a name is not UTF-8"))
}

/// Value in `Pending`.
#[derive(Debug)]
pub(crate) struct PendingRow {
    pub(crate) expires_at: i64,
    pub(crate) accepted_at: i64,
    /// Key in `Collapse` without the number; empty for none.
    pub(crate) collapse: Vec<u8>,
}

impl PendingRow {
    pub(crate) fn encode(&self) -> Vec<u8> {
        [&time_bytes(self.expires_at)[..], &time_bytes(self.accepted_at), &self.collapse].concat()
    }

    pub(crate) fn decode(value: &[u8]) -> Result<Self, StoreError> {
        let mut fields = Fields(value);
        let (expires_at, accepted_at) = (fields.time()?, fields.time()?);
        Ok(Self { expires_at, accepted_at, collapse: fields.0.to_vec() })
    }
}

/// Value in `Ids`.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) position: u64,
    pub(crate) sequence: u64,
    pub(crate) accepted_at: i64,
    pub(crate) hash: [u8; 32],
}

impl Known {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(56);
        value.extend_from_slice(&self.position.to_be_bytes());
        value.extend_from_slice(&self.sequence.to_be_bytes());
        value.extend_from_slice(&time_bytes(self.accepted_at));
        value.extend_from_slice(&self.hash);
        value
    }

    pub(crate) fn decode(value: &[u8]) -> Result<Self, StoreError> {
        let mut fields = Fields(value);
        Ok(Self {
            position: fields.u64()?,
            sequence: fields.u64()?,
            accepted_at: fields.time()?,
            hash: fields.array()?,
        })
    }
}

/// Value in `Pairs`.
pub(crate) fn pair_value(state: PairState, since: i64) -> [u8; 9] {
    let mut value = [0; 9];
    value[0] = state.code();
    value[1..].copy_from_slice(&time_bytes(since));
    value
}

pub(crate) fn pair_state(value: &[u8]) -> Result<PairState, StoreError> {
    let code = value.first().copied().unwrap_or(u8::MAX);
    PairState::from_code(code).ok_or_else(|| StoreError::damaged("a pair has no such state"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_sort_as_numbers_and_come_back() {
        let times = [i64::MIN, -5, 0, 7, NEVER];
        assert!(times.windows(2).all(|two| timed(two[0], 9) < timed(two[1], 0)));
        for time in times {
            assert_eq!(Fields(&timed(time, 1)).time().expect("long enough"), time);
        }
    }

    #[test]
    fn a_name_is_never_part_of_another_key() {
        assert_ne!(id("ab", b"c"), id("a", b"bc"));
        assert_ne!(collapse("ab", "c"), collapse("a", "bc"));
    }
}
