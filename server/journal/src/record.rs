//! A record as bytes; its position is the key under which it is kept.
#![forbid(unsafe_code)]

use std::sync::Arc;

use bytes::Bytes;

use crate::keys::{Fields, NEVER};
use crate::store::StoreError;
use crate::types::Record;

fn put(bytes: &mut Vec<u8>, field: &[u8]) {
    bytes.extend_from_slice(&(field.len() as u16).to_be_bytes());
    bytes.extend_from_slice(field);
}

pub(crate) fn encode(record: &Record) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(128 + record.frame.len());
    bytes.extend_from_slice(&record.sequence.to_be_bytes());
    bytes.extend_from_slice(&record.accepted_at.to_be_bytes());
    bytes.extend_from_slice(&record.expires_at.unwrap_or(NEVER).to_be_bytes());
    bytes.extend_from_slice(&record.hash);
    put(&mut bytes, record.topic.as_bytes());
    put(&mut bytes, record.publisher.as_bytes());
    put(&mut bytes, &record.id);
    bytes.extend_from_slice(&record.frame);
    bytes
}

pub(crate) fn decode(position: u64, value: &[u8]) -> Result<Record, StoreError> {
    let mut fields = Fields(value);
    let (sequence, accepted_at, expires_at) = (fields.u64()?, fields.u64()? as i64, fields.u64()? as i64);
    let hash = fields.array()?;
    let (topic, publisher) = (Arc::from(fields.text()?), Arc::from(fields.text()?));
    let len = usize::from(fields.u16()?);
    let id = fields.bytes(len)?.to_vec();
    let expires_at = (expires_at != NEVER).then_some(expires_at);
    let frame = Bytes::copy_from_slice(fields.0);
    Ok(Record { position, sequence, topic, publisher, id, hash, accepted_at, expires_at, frame })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back() {
        let record = Record {
            position: 7,
            sequence: 3,
            topic: "risk_alert.desk-7".into(),
            publisher: "risk".into(),
            id: vec![1, 2, 3],
            hash: [9; 32],
            accepted_at: -1,
            expires_at: None,
            frame: Bytes::from_static(b"stop everything"),
        };
        let bytes = encode(&record);
        assert_eq!(decode(7, &bytes).expect("whole"), record);
    }
}
