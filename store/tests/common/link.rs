//! Two stores exchanging what they hold through the public interface, as the nodes do: operations
//! while the log has them, state where it has not, and in the end the proof that both hold the same.

use vmsync_config::words::Origin;
use vmsync_store::{
    AudioRef, Effect, HeldRecord, NewAudio, Operation, PeerRecord, RecordsAsk, SeedStep, Store,
    StoreError,
};

use super::{assert_sound, files};

pub(crate) fn audio_of(operation: &Operation) -> Option<AudioRef> {
    match &operation.effect {
        Effect::Set(fields) => serde_json::from_value(fields.get("audio")?.clone()).ok(),
        Effect::Delete => None,
    }
}

/// Sends what `to` lacks of `origin`, at most `max` operations, with their audio.
pub(crate) fn try_send(
    from: &Store,
    to: &Store,
    origin: &Origin,
    max: usize,
) -> Result<usize, StoreError> {
    let operations = from.operations(origin, to.have().get(origin), max)?;
    for operation in &operations {
        if let Some(audio) = audio_of(operation) {
            let bytes = from.read_audio(&audio)?;
            let field = |name| match &operation.effect {
                Effect::Set(fields) => fields.get(name).cloned(),
                Effect::Delete => None,
            };
            let new = NewAudio {
                entity: operation.entity.clone(),
                mailbox: field("mailbox").and_then(|m| serde_json::from_value(m).ok()),
                audio: &audio,
                facts: field("facts").unwrap_or_default(),
            };
            to.put_audio(new, &bytes)?;
        }
    }
    to.apply(&operations)
}

pub(crate) fn send(from: &Store, to: &Store, origin: &Origin, max: usize) -> usize {
    try_send(from, to, origin, max).unwrap()
}

/// Puts the audio of records there, and gives the records to join.
pub(crate) fn carry(from: &Store, to: &Store, records: Vec<HeldRecord>) -> Vec<PeerRecord> {
    for held in &records {
        for audio in &held.audio {
            let new = NewAudio {
                entity: held.entity.clone(),
                mailbox: held.mailbox().and_then(|m| m.parse().ok()),
                audio,
                facts: held.facts(audio),
            };
            // What was purged since it was read is refused by `join`, and asked for again.
            if let Ok(bytes) = from.read_audio(audio) {
                to.put_audio(new, &bytes).unwrap();
            }
        }
    }
    let peer = |HeldRecord { entity, record, .. }| PeerRecord { entity, record };
    records.into_iter().map(peer).collect()
}

/// The next step of a seeding, going on with one under way. `None` when none is needed.
pub(crate) fn next_step(
    from: &Store,
    to: &Store,
    max: usize,
) -> Option<(Vec<HeldRecord>, SeedStep)> {
    let (upto, after) = match to.seeding() {
        Some(s) if from.have().covers(&s.upto) => (s.upto, s.after),
        _ => (from.have(), None),
    };
    if to.have().covers(&upto) {
        return None;
    }
    let beyond = to.have();
    let page = from
        .records(&RecordsAsk {
            after: after.as_deref(),
            lacking: &beyond,
            max,
            max_bytes: 1_000_000,
        })
        .unwrap();
    let through = page.through;
    Some((
        page.records,
        SeedStep {
            upto,
            beyond,
            after,
            through,
        },
    ))
}

/// Goes through one seeding to its end; the log goes on from there.
pub(crate) fn seed(from: &Store, to: &Store, max: usize) {
    while let Some((records, step)) = next_step(from, to, max) {
        let records = carry(from, to, records);
        match to.join(&records, Some(&step)) {
            // Purged between the two reads: read again.
            Err(StoreError::MissingAudio(_)) => {}
            other => {
                other.unwrap();
                if step.through.is_none() {
                    return;
                }
            }
        }
    }
}

/// Sends everything one way: operations, or state where the log does not reach back.
pub(crate) fn deliver(from: &Store, to: &Store) {
    loop {
        let mut sent = 0;
        let mut below = false;
        for (origin, _) in from.have().iter() {
            match try_send(from, to, origin, 7) {
                Ok(n) => sent += n,
                Err(StoreError::BelowFloor { .. }) => below = true,
                Err(error) => panic!("{error}"),
            }
        }
        if below {
            seed(from, to, 5);
        } else if sent == 0 {
            return;
        }
    }
}

/// Sends everything both ways.
pub(crate) fn synchronise(a: &Store, b: &Store) {
    deliver(a, b);
    deliver(b, a);
}

/// Exchanges the items of all buckets that differ, and then the records that do.
pub(crate) fn repair(a: &Store, b: &Store) {
    let (ours, theirs) = (a.buckets().1, b.buckets().1);
    let differ: Vec<u8> = (0..=255u8)
        .filter(|n| ours[usize::from(*n)] != theirs[usize::from(*n)])
        .collect();
    for (from, to) in [(a, b), (b, a)] {
        let wanted = from.compare_items(&to.items(&differ).unwrap()).unwrap();
        let records = carry(from, to, from.records_of(&wanted).unwrap());
        to.join(&records, None).unwrap();
    }
}

/// Both hold the same, and each is sound.
pub(crate) fn assert_same(a: &Store, b: &Store) {
    assert_eq!(a.digest(), b.digest());
    assert_eq!(a.buckets(), b.buckets());
    assert_sound(a);
    assert_sound(b);
    assert_eq!(
        files(&a.dir().join("audio")),
        files(&b.dir().join("audio")),
        "both hold the same audio files and no others"
    );
}
