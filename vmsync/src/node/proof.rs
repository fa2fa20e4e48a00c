//! The certificate, kept: the last proof that both nodes held the same, what it leaves out, and
//! which one each failback rested on (architecture decision 5).
//!
//! It is a local record, so that it is there after a restart. It changes with every change both
//! come to hold, so it is written at intervals; what a failback rests on is written before it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vmsync_config::words::{GroupName, Now};
use vmsync_core::{resilience::Ownership, sync::Certificate};
use vmsync_store::{Store, StoreError};

use super::Node;
use crate::app::{CertificateAnswer, LeftOut};

const CERTIFICATE: &str = "certificate";
const LAST: &str = "last";
/// What failbacks decided here rested on, `group/epoch`.
const FAILBACKS: &str = "failback-proof";
/// The certificate is written no more often than this.
const EVERY: Duration = Duration::from_secs(5);
/// Entities left out that are named; the rest is counted.
const NAMED: usize = 50;

/// A certificate with what qualifies it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Proof {
    #[serde(flatten)]
    pub(crate) certificate: Certificate,
    pub(crate) left_out: LeftOut,
    /// Audio files this node knew to be missing or damaged here.
    pub(crate) audio_faults: u64,
}

/// What a failback rested on.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct FailbackProof {
    /// In words.
    pub(crate) says: String,
    /// Both nodes held the same when the home took over, as this shows; none: the failback did not
    /// wait for that.
    #[schema(value_type = Option<Object>)]
    pub(crate) certificate: Option<Proof>,
}

/// The last certificate in memory, and when to write again.
#[derive(Default)]
pub(super) struct Kept {
    last: Option<Proof>,
    again: Duration,
}

impl Kept {
    /// What was kept before the process ended.
    pub(super) fn load(store: &Store) -> Result<Self, StoreError> {
        let kept = store.local(CERTIFICATE, LAST)?;
        Ok(Self {
            last: kept.and_then(|bytes| serde_json::from_slice(&bytes).ok()),
            ..Self::default()
        })
    }
}

impl FailbackProof {
    fn new(certificate: Option<Proof>) -> Self {
        let says = match &certificate {
            None => "no certificate: it did not wait until both nodes held the same".to_owned(),
            Some(proof) => match proof.left_out.count {
                0 => "both nodes held the same".to_owned(),
                n => format!("both nodes held the same, but for {n} entities under quarantine"),
            },
        };
        Self { says, certificate }
    }
}

impl Node {
    /// The certificate of this session, else the one kept.
    fn proof(&self) -> Option<Proof> {
        let Some(certificate) = self.session.certificate() else {
            return self.certificate.last.clone();
        };
        let kept = self.certificate.last.as_ref();
        if let Some(kept) = kept.filter(|k| k.certificate == *certificate) {
            return Some(kept.clone());
        }
        Some(Proof {
            certificate: certificate.clone(),
            left_out: self.progress.left_out.clone(),
            audio_faults: self.progress.audio_faults.0 as u64,
        })
    }

    /// Writes the certificate when it is another than the one written, now and then.
    pub(super) async fn keep_certificate(&mut self, now: Now) {
        let proof = self.proof();
        if now.mono < self.certificate.again || proof == self.certificate.last {
            return;
        }
        self.certificate.again = now.mono.saturating_add(EVERY);
        let Some(proof) = proof else { return };
        let kept = proof.clone();
        match self.app.store(move |store| keep(store, &kept)).await {
            Ok(()) => self.certificate.last = Some(proof),
            Err(error) => tracing::warn!(%error, "the certificate could not be kept; tried again"),
        }
    }

    /// What a failback rests on that is decided now.
    pub(super) fn rests_on(&self) -> FailbackProof {
        FailbackProof::new(self.proof().filter(|_| self.session.finished()))
    }

    pub(super) fn certificate(&self) -> CertificateAnswer {
        let proof = self.proof();
        let certificate = proof.as_ref().map(|p| &p.certificate);
        CertificateAnswer {
            at: certificate.map(|c| c.at.to_string()),
            digest: certificate.map(|c| c.digest.clone()),
            vector: certificate.map_or(serde_json::Value::Null, |c| {
                serde_json::to_value(&c.vector).unwrap_or_default()
            }),
            equal_now: self.session.finished(),
            left_out: proof
                .as_ref()
                .map(|p| p.left_out.clone())
                .unwrap_or_default(),
            audio_faults: proof.map_or(0, |p| p.audio_faults),
        }
    }
}

/// What a certificate leaves out: the entities under quarantine.
pub(super) fn left_out(store: &Store) -> LeftOut {
    let quarantined = store.quarantined();
    LeftOut {
        count: quarantined.len() as u64,
        entities: quarantined
            .iter()
            .take(NAMED)
            .map(|q| q.entity.to_string())
            .collect(),
    }
}

fn keep(store: &Store, proof: &Proof) -> Result<(), StoreError> {
    put(store, CERTIFICATE, LAST, proof)
}

/// Makes durable what the failback `next` rests on. To be done before the failback is.
pub(super) fn keep_failback(
    store: &Store,
    next: &Ownership,
    proof: &FailbackProof,
) -> Result<(), StoreError> {
    if let Some(proof) = &proof.certificate {
        keep(store, proof)?;
    }
    put(store, FAILBACKS, &key(&next.group, next.epoch), proof)
}

/// What the failback of `epoch` rested on, where it was decided here; `None` = it was not, or is
/// no failback.
pub(crate) fn failback_proof(
    store: &Store,
    group: &GroupName,
    epoch: u64,
) -> Result<Option<FailbackProof>, StoreError> {
    let kept = store.local(FAILBACKS, &key(group, epoch))?;
    Ok(kept.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// With the transition that is dropped from the history goes its proof.
pub(super) fn forget_failback(store: &Store, history_key: &str) -> Result<(), StoreError> {
    store.put_local(FAILBACKS, history_key, None)
}

fn key(group: &GroupName, epoch: u64) -> String {
    super::groups::history_key(group.as_str(), epoch)
}

fn put(store: &Store, space: &str, key: &str, value: &impl Serialize) -> Result<(), StoreError> {
    let bytes = serde_json::to_vec(value).map_err(|e| StoreError::Invalid(e.to_string()))?;
    store.put_local(space, key, Some(&bytes))
}

#[cfg(test)]
mod tests {
    use vmsync_config::words::UnixMillis;
    use vmsync_store::{EntityKey, Options, Skip};

    use super::*;

    #[test]
    fn a_certificate_outlives_the_process_and_names_what_it_leaves_out() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            node: "vmpro2".parse().unwrap(),
            min_free_bytes: 0,
            clock: || UnixMillis(1_700_000_000_000),
        };
        let store = Store::open(folder.path(), options).unwrap();
        assert_eq!(Kept::load(&store).unwrap().last, None);
        let skip = |n: usize| Skip {
            origin: store.origin(),
            seq: 0,
            entity: EntityKey::try_from(format!("mailbox/{}", 2000 + n)).unwrap(),
            why: "a test".into(),
        };
        store
            .skip(&(0..NAMED + 10).map(skip).collect::<Vec<_>>())
            .unwrap();
        let proof = Proof {
            certificate: Certificate {
                at: UnixMillis(5),
                vector: store.have(),
                digest: store.digest().1.0,
            },
            left_out: left_out(&store),
            audio_faults: 1,
        };
        assert_eq!(proof.left_out.count, 60);
        assert_eq!(proof.left_out.entities.len(), NAMED, "bounded");
        keep(&store, &proof).unwrap();
        assert_eq!(Kept::load(&store).unwrap().last, Some(proof.clone()));

        let group: GroupName = "primary".parse().unwrap();
        let next = Ownership {
            group: group.clone(),
            epoch: 2,
            owner: "vmpro1".parse().unwrap(),
            since: UnixMillis(6),
            reason: "a test".into(),
            held: false,
            row: None,
            failovers: Vec::new(),
            order: None,
        };
        keep_failback(&store, &next, &FailbackProof::new(Some(proof.clone()))).unwrap();
        let told = failback_proof(&store, &group, 2).unwrap().unwrap();
        assert_eq!(told.certificate, Some(proof));
        assert!(told.says.contains("60 entities under quarantine"));
        assert!(failback_proof(&store, &group, 1).unwrap().is_none());
        let none = FailbackProof::new(None);
        assert!(none.says.starts_with("no certificate"), "{}", none.says);
    }
}
