//! Files of versions in which a term could have two leaders, the later with the larger id. They wrote which of them is meant wherever a
//! term stands:
//!
//! ```text
//! vote    leader_id: {term, node_id}   now {term, voted_for}
//! log id  leader_id: {term, node_id}   now term
//! ```
//!
//! They are brought up to date when they are opened, in one transaction. Of two leaders' entries of one term at most one set is committed, and
//! a log has the other nowhere behind it; so the term says enough.

use ciborium::Value;
use redb::{Database, ReadableDatabase, ReadableTable, TableError};

use super::disk::{DiskError, LOG, META, entry_at, put_bytes, sealed_entry, unsealed};
use crate::state::encoding;

/// Of `meta`: what holds a vote or log ids.
const HAVE_THEM: [&str; 4] = ["vote", "committed", "purged", "snapshot-of"];

/// Does nothing to a file that is up to date, or new.
pub(super) fn bring_up_to_date(database: &Database) -> Result<(), DiskError> {
    let (mut meta, mut log) = (Vec::new(), Vec::new());
    {
        let read = database.begin_read()?;
        let (names, entries) = match (read.open_table(META), read.open_table(LOG)) {
            (Ok(names), Ok(entries)) => (names, entries),
            // That, the audit looks at.
            (Err(TableError::TableDoesNotExist(_)), _)
            | (_, Err(TableError::TableDoesNotExist(_))) => return Ok(()),
            (Err(error), _) | (_, Err(error)) => return Err(error.into()),
        };
        for name in HAVE_THEM {
            if let Some(found) = names.get(name)? {
                let found = unsealed(name.as_bytes(), found.value(), name)?;
                meta.extend(as_now(&found)?.map(|bytes| (name, bytes)));
            }
        }
        for entry in entries.iter()? {
            let (index, found) = entry?;
            let index = index.value();
            let Some(bytes) = as_now(&entry_at(index, found.value())?)? else {
                // All of a file are of one version.
                break;
            };
            log.push((index, bytes));
        }
    }
    if meta.is_empty() && log.is_empty() {
        return Ok(());
    }
    tracing::info!(
        entries = log.len(),
        "the replica's file is of an earlier version, and is brought up to date"
    );
    let transaction = database.begin_write()?;
    for (name, bytes) in meta {
        put_bytes(&transaction, name, bytes)?;
    }
    {
        let mut entries = transaction.open_table(LOG)?;
        for (index, bytes) in log {
            entries.insert(index, sealed_entry(index, bytes).as_slice())?;
        }
    }
    transaction.commit()?;
    Ok(())
}

/// None: it is up to date.
fn as_now(bytes: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
    let mut value: Value = encoding::decode(bytes)?;
    match change(&mut value) {
        true => Ok(Some(encoding::encode(&value)?)),
        false => Ok(None),
    }
}

/// True: there was something to change. What clients have written isn't looked into: an entry's payload has its own shape.
fn change(value: &mut Value) -> bool {
    let Value::Map(fields) = value else {
        return false;
    };
    let is_vote = fields.iter().any(|(name, _)| is(name, "committed"));
    let mut changed = false;
    for (name, field) in fields {
        if is(name, "payload") {
            continue;
        }
        if is(name, "leader_id")
            && let Value::Map(of) = field
            && let [(term, n), (node_id, _)] = of.as_mut_slice()
            && is(term, "term")
            && is(node_id, "node_id")
        {
            match is_vote {
                true => *node_id = Value::from("voted_for"),
                false => *field = n.clone(),
            }
            changed = true;
        } else {
            changed |= change(field);
        }
    }
    changed
}

fn is(name: &Value, text: &str) -> bool {
    name.as_text() == Some(text)
}
