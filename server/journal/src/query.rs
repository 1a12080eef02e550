//! Questions to the tables: what waits, and what became of a message.
#![forbid(unsafe_code)]

use crate::keys::{self, Fields, Known, NEVER, PendingRow};
use crate::record;
use crate::store::{Read, StoreError, StoreErrorKind, Table};
use crate::types::{PairState, Record, Status};

/// Records that wait for a number, from a position on, in order; at most `limit` and about `bytes_max`, and none
/// only when there are no more. A record that is damaged is that record's alone: it is counted in `damaged`, and
/// what waits behind it is given all the same.
pub(crate) fn pending(
    tables: &dyn Read,
    number: u32,
    mut from: u64,
    limit: usize,
    bytes_max: usize,
    damaged: &mut u64,
) -> Result<Vec<Record>, StoreError> {
    let (mut records, mut bytes) = (Vec::new(), 0);
    loop {
        let (first, end) = (keys::pending(number, from), keys::pending(number, u64::MAX));
        let rows = tables.scan(Table::Pending, &first, &end, limit - records.len())?;
        let Some((last, _)) = rows.last() else { return Ok(records) };
        from = Fields(&last[4..]).u64()? + 1;
        for (key, _) in rows {
            let position = Fields(&key[4..]).u64()?;
            match read(tables, position) {
                Ok(record) => {
                    bytes += record.frame.len();
                    records.push(record);
                }
                Err(error) if matches!(error.kind, StoreErrorKind::Damaged { .. }) => *damaged += 1,
                Err(error) => return Err(error),
            }
            if bytes >= bytes_max || records.len() == limit {
                return Ok(records);
            }
        }
    }
}

fn read(tables: &dyn Read, position: u64) -> Result<Record, StoreError> {
    let value = tables.get(Table::Records, &keys::position(position))?;
    record::decode(position, &value.ok_or_else(|| StoreError::damaged_record(position))?)
}

/// Positions that wait for a number, with their expiries.
pub(crate) fn waiting(tables: &dyn Read, number: u32) -> Result<Vec<(u64, Option<i64>)>, StoreError> {
    let (from, to) = (keys::pending(number, 0), keys::pending(number, u64::MAX));
    let rows = tables.scan(Table::Pending, &from, &to, usize::MAX)?;
    let rows = rows.iter().map(|(key, value)| {
        let expires_at = PendingRow::decode(value)?.expires_at;
        Ok((Fields(&key[4..]).u64()?, (expires_at != NEVER).then_some(expires_at)))
    });
    rows.collect()
}

/// Records by position, those that are there, up to about `bytes_max`.
pub(crate) fn records(
    tables: &dyn Read,
    positions: &[u64],
    bytes_max: usize,
) -> Result<Vec<Record>, StoreError> {
    let (mut records, mut bytes) = (Vec::new(), 0);
    for position in positions {
        let Some(value) = tables.get(Table::Records, &keys::position(*position))? else { continue };
        bytes += value.len();
        records.push(record::decode(*position, &value)?);
        if bytes >= bytes_max {
            break;
        }
    }
    Ok(records)
}

/// What became of a message; nothing when its id is not known, or no more.
pub(crate) fn status(tables: &dyn Read, publisher: &str, id: &[u8]) -> Result<Option<Status>, StoreError> {
    let Some(known) = tables.get(Table::Ids, &keys::id(publisher, id))? else { return Ok(None) };
    let Known { position, sequence, .. } = Known::decode(&known)?;
    let removed = tables.get(Table::Records, &keys::position(position))?.is_none();
    let mut status = Status { position, sequence, removed, ..Status::default() };
    let (from, to) = (keys::pair(position, 0), keys::pair(position + 1, 0));
    for (_, value) in tables.scan(Table::Pairs, &from, &to, usize::MAX)? {
        let count = match keys::pair_state(&value)? {
            PairState::Pending => &mut status.pending,
            PairState::Acked => &mut status.acked,
            PairState::Expired => &mut status.expired,
            PairState::Revoked => &mut status.revoked,
            PairState::Superseded => &mut status.superseded,
        };
        *count += 1;
    }
    Ok(Some(status))
}
