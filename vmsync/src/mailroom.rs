//! Mail that has come in: from the peer, applied before it is acknowledged; from a PBX, made a
//! message before it is acknowledged (architecture decision 8).

use std::{net::IpAddr, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use vmsync_config::{Ack, Limits, show_duration, words::Extension};
use vmsync_core::{
    intake,
    smtp::{Accepted, Envelope, Recipient, Refusal, SmtpEvent, Verdict},
    wire::{self, Mail, WireError},
};
use vmsync_store::{
    AudioRef, EntityKey, NewAudio, Operation, PeerRecord, SeedStep, Store, StoreError,
    model::{Message, MessageFacts},
};

use crate::{app::App, clock, node::Command, smtp::MailHandler};

/// How an audio file is described in a mail between the nodes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AboutAudio {
    /// What it belongs to.
    pub(crate) entity: EntityKey,
    /// Whose, for a message. Not sent by version 1.0 of the wire format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mailbox: Option<Extension>,
    /// The audio's facts.
    #[serde(flatten)]
    pub(crate) audio: AudioRef,
    /// What else the file needs to describe itself (`NewAudio::facts`).
    #[serde(default)]
    pub(crate) facts: serde_json::Value,
}

/// Takes in what the receiver hands over.
pub struct Mailroom {
    app: Arc<App>,
}

impl Mailroom {
    /// The mailroom of `app`'s node.
    pub fn new(app: Arc<App>) -> Self {
        Self { app }
    }

    async fn take_node_mail(&self, envelope: &Envelope, body: Bytes) -> Result<Accepted, Refusal> {
        let keys = self.app.keys.clone();
        let me = self.app.config.node.id.clone();
        let mail = blocking(move || wire::decode(&body, &keys, &me))
            .await?
            .map_err(|e| self.refused(envelope.peer, &e))?;
        if mail.head.from.node != self.app.config.pair.peer_id {
            let who = mail.head.from.node.to_string();
            self.app.alarms.raise(
                "wrong_node",
                &who,
                "a signed mail of a node that is not this node's peer was refused; check pair.peer_id on both nodes",
            );
            return Err(Refusal::not_authorised(format!(
                "{who} is not this node's peer"
            )));
        }
        let count = mail.operations.len() + mail.records.len();
        let head = mail.head.clone();
        let applied = self
            .app
            .store(move |store| apply(store, &mail))
            .await
            .map_err(|e| self.not_applied(&e))?;
        tracing::debug!(mail = %head.id, operations = count, new = applied.new, "mail of the peer applied");
        // The peer must not hear 250 before our decisions know what it said: order is kept by the channel.
        if self
            .app
            .node
            .commands
            .send(Command::Heard {
                head,
                wanted: applied.wanted,
            })
            .await
            .is_err()
        {
            return Err(Refusal::try_later("this node is stopping"));
        }
        Ok(Accepted {
            text: format!(
                "{} of {count} operations were new, all are durable",
                applied.new
            ),
        })
    }

    async fn take_voicemail(
        &self,
        recipients: &[Recipient],
        body: Bytes,
    ) -> Result<Accepted, Refusal> {
        let incoming = blocking(move || intake::read(&body, clock::wall()))
            .await?
            .map_err(|e| Refusal::bad_content(e.to_string()))?;
        let incoming = Arc::new(incoming);
        fits(&incoming, &self.app.config.limits)?;
        let shortest = self.app.config.limits.message_min.as_millis();
        if u128::from(incoming.measured.duration_ms) < shortest {
            // R-MB-8: a message shorter than the minimum is dropped, which is no fault of the sender.
            return Ok(Accepted {
                text: format!("shorter than {shortest} ms: dropped"),
            });
        }
        let mut taken = Vec::new();
        for recipient in recipients {
            let Recipient::Mailbox(extension) = recipient else {
                continue;
            };
            let message = self.deposit(extension, Arc::clone(&incoming)).await?;
            let copies = self.app.acknowledged(&message.stamp).await;
            taken.push(match (self.app.config.pair.ack, copies) {
                (Ack::One, _) => message.id.to_string(),
                (Ack::Both, 2) => format!("{}, both nodes hold it", message.id),
                (Ack::Both, _) => format!("{}, only this node holds it yet", message.id),
            });
        }
        Ok(Accepted {
            text: format!("message {}", taken.join(" ")),
        })
    }

    async fn deposit(
        &self,
        extension: &Extension,
        incoming: Arc<intake::Incoming>,
    ) -> Result<Message, Refusal> {
        let facts = MessageFacts {
            caller_number: incoming.caller_number.clone(),
            caller_name: incoming.caller_name.clone(),
            called_number: incoming.called_number.clone(),
            received_at: Some(incoming.received_at),
            urgent: incoming.urgent,
            private: incoming.private,
            taken_by: Some(self.app.config.node.id.clone()),
            source_id: Some(format!("mail:{}", incoming.source_id)),
        };
        let ext = extension.clone();
        let (message, new) = self
            .app
            .store(move |store| {
                let audio = describe(&incoming.measured, &incoming.audio);
                store.deposit(&ext, facts, audio, &incoming.audio)
            })
            .await
            .map_err(|e| not_deposited(extension, &e))?;
        if !new {
            tracing::info!(mailbox = %extension, message = %message.id, "the same mail came again; it is one message");
        }
        Ok(message)
    }

    fn refused(&self, peer: IpAddr, error: &WireError) -> Refusal {
        let (code, enhanced) = error.reply();
        if error.alarms() {
            let alarm = match error {
                WireError::UnknownVersion(_) => "wire_version",
                _ => "bad_signature",
            };
            let text = format!("a mail from {peer}: {error}");
            let of = self.app.config.pair.peer_id.as_str();
            self.app.alarms.raise(alarm, of, &text);
        }
        Refusal::new(code, enhanced, error.to_string())
    }

    fn not_applied(&self, error: &StoreError) -> Refusal {
        match error {
            // The node loop watches the disk and raises the alarm.
            StoreError::Full { .. } => Refusal::no_space(),
            StoreError::Invalid(_) => {
                // Refused for good, but never lost: the peer keeps it, and says so, and so do we.
                self.app.alarms.raise(
                    "operation_refused",
                    self.app.config.pair.peer_id.as_str(),
                    &error.to_string(),
                );
                Refusal::bad_content(error.to_string())
            }
            _ => Refusal::try_later(error.to_string()),
        }
    }
}

#[async_trait]
impl MailHandler for Mailroom {
    async fn recipient(&self, recipient: &Recipient, _peer: std::net::SocketAddr) -> Verdict {
        let Recipient::Mailbox(extension) = recipient else {
            return Verdict::Accept;
        };
        let ext = extension.clone();
        match self.app.store(move |s| s.mailbox(&ext)).await {
            Ok(Some(m)) if m.deleted => Verdict::Refuse(Refusal::no_mailbox(extension.as_str())),
            Ok(Some(m)) if !m.enabled => Verdict::Refuse(Refusal::disabled(extension.as_str())),
            Ok(Some(_)) => Verdict::Accept,
            Ok(None) => Verdict::Refuse(Refusal::no_mailbox(extension.as_str())),
            Err(e) => Verdict::Refuse(Refusal::try_later(e.to_string())),
        }
    }

    async fn deliver(&self, envelope: Envelope, body: Bytes) -> Result<Accepted, Refusal> {
        if envelope.recipients.contains(&Recipient::Node) {
            self.take_node_mail(&envelope, body).await
        } else if !self.app.node.status().node.ready {
            // It may have been restored from an old copy: nothing is written before that is settled.
            Err(Refusal::try_later(
                "this node is starting; try again in a few seconds",
            ))
        } else {
            self.take_voicemail(&envelope.recipients, body).await
        }
    }

    fn event(&self, event: SmtpEvent) {
        tracing::debug!(event = event.name(), "{event}");
        match &event {
            SmtpEvent::ForeignDomain { domain, .. } => self.app.alarms.raise(
                "foreign_domain",
                // Not the domain asked for: anybody could make up as many alarms as he likes.
                self.app.config.receiver.domain.as_str(),
                &format!(
                    "last for {domain}: {event}; this node takes mail for {} only: check smtp.receiver.domain here and the sender's settings there",
                    self.app.config.receiver.domain
                ),
            ),
            SmtpEvent::TlsRequired { .. } | SmtpEvent::WrongCertificate { .. } => {
                let peer = self.app.config.pair.peer_id.as_str();
                self.app.alarms.raise(event.name(), peer, &event.to_string());
            }
            _ => {}
        }
    }
}

/// The limits that hold over HTTP hold for mail too: R-MB-8, and no more audio than a mail between
/// the nodes has room for.
fn fits(incoming: &intake::Incoming, limits: &Limits) -> Result<(), Refusal> {
    let too_much = |text| Err(Refusal::new(552, "5.3.4", text));
    let (length, longest) = (incoming.measured.duration_ms, limits.message_max);
    if u128::from(length) > longest.as_millis() {
        let longest = show_duration(longest);
        return too_much(format!(
            "the recording is {length} ms long; the longest taken is {longest} (limits.message_max)"
        ));
    }
    let (bytes, most) = (incoming.audio.len() as u64, limits.message_bytes);
    if bytes > most {
        return too_much(format!(
            "the recording has {bytes} bytes; the most taken is {most} (limits.message_bytes)"
        ));
    }
    Ok(())
}

/// What came of a mail of the peer.
#[derive(Debug, Default)]
struct Applied {
    /// Operations and records that were new.
    new: u64,
    /// Entities whose records the peer should get.
    wanted: Vec<String>,
}

/// Audio first, then what names it: a crash in between leaves files that nothing names, which the
/// next try finds in place. All of it can be repeated.
fn apply(store: &Store, mail: &Mail) -> Result<Applied, StoreError> {
    let mut operations = Vec::with_capacity(mail.operations.len());
    for value in &mail.operations {
        operations.push(Operation::deserialize(value).map_err(malformed)?);
    }
    let have = store.have();
    let known = |o: &Operation| o.stamp.seq <= have.get(&o.stamp.origin);
    let repeated =
        !operations.is_empty() && operations.iter().all(known) && mail.records.is_empty();
    let mut applied = Applied::default();
    if !repeated {
        put_audio(store, mail)?;
        // Quarantined first, so that what lacks its audio can be taken all the same.
        store.skip(&skips(&mail.skips)?)?;
        applied.new = join(store, mail)?;
        applied.new += store.apply(&operations)? as u64;
    }
    store.release(&entities(&mail.release)?)?;
    if !mail.items.is_empty() {
        let wanted = store.compare_items(&items(&mail.items)?)?;
        applied.wanted = wanted.iter().map(ToString::to_string).collect();
    }
    Ok(applied)
}

fn put_audio(store: &Store, mail: &Mail) -> Result<(), StoreError> {
    let mut about = Vec::with_capacity(mail.audio.len());
    for carried in &mail.audio {
        about.push(AboutAudio::deserialize(carried.about()).map_err(malformed)?);
    }
    let new = about.iter().map(|about| NewAudio {
        entity: about.entity.clone(),
        mailbox: about.mailbox.clone(),
        audio: &about.audio,
        facts: about.facts.clone(),
    });
    let bytes = mail.audio.iter().map(|carried| &carried.bytes()[..]);
    let audios: Vec<_> = new.zip(bytes).collect();
    store.put_audios(&audios)
}

fn join(store: &Store, mail: &Mail) -> Result<u64, StoreError> {
    let mut records = Vec::with_capacity(mail.records.len());
    for record in &mail.records {
        records.push(PeerRecord {
            entity: entity(&record.entity)?,
            record: record.record.clone(),
        });
    }
    let seed = mail.seed.as_ref().map(|s| SeedStep {
        upto: s.upto.clone(),
        beyond: s.beyond.clone(),
        after: s.after.clone(),
        through: s.through.clone(),
    });
    Ok(store.join(&records, seed.as_ref())?.changed)
}

fn malformed(error: impl std::fmt::Display) -> StoreError {
    StoreError::Invalid(format!("malformed mail of the peer: {error}"))
}

fn entity(name: &str) -> Result<EntityKey, StoreError> {
    EntityKey::try_from(name.to_owned()).map_err(malformed)
}

fn entities(names: &[String]) -> Result<Vec<EntityKey>, StoreError> {
    names.iter().map(|name| entity(name)).collect()
}

fn items(buckets: &[wire::BucketItems]) -> Result<Vec<vmsync_store::BucketItems>, StoreError> {
    let item = |i: &wire::Item| {
        Ok(vmsync_store::Item {
            entity: entity(&i.entity)?,
            hash: i.hash.clone(),
            lacks_audio: i.lacks_audio,
        })
    };
    let bucket = |b: &wire::BucketItems| {
        Ok(vmsync_store::BucketItems {
            bucket: b.bucket,
            items: b
                .items
                .iter()
                .map(item)
                .collect::<Result<_, StoreError>>()?,
        })
    };
    buckets.iter().map(bucket).collect()
}

/// Skips as the store takes them.
pub(crate) fn skips(skips: &[wire::Skip]) -> Result<Vec<vmsync_store::Skip>, StoreError> {
    let skip = |s: &wire::Skip| {
        Ok(vmsync_store::Skip {
            origin: s.origin.clone(),
            seq: s.seq,
            entity: entity(&s.entity)?,
            why: s.why.clone(),
        })
    };
    skips.iter().map(skip).collect()
}

/// The store's description of audio that was just measured.
pub(crate) fn describe(measured: &vmsync_core::audio::Measured, bytes: &[u8]) -> AudioRef {
    use sha2::{Digest, Sha256};
    AudioRef {
        blob: uuid::Uuid::now_v7(),
        sha256: hex::encode(Sha256::digest(bytes)),
        bytes: bytes.len() as u64,
        content_type: measured.content_type.to_owned(),
        codec: measured.codec.to_owned(),
        duration_ms: measured.duration_ms,
    }
}

fn not_deposited(extension: &Extension, error: &StoreError) -> Refusal {
    match error {
        StoreError::NotFound { .. } => Refusal::no_mailbox(extension.as_str()),
        StoreError::Disabled(_) => Refusal::disabled(extension.as_str()),
        StoreError::MailboxFull(_) => Refusal::full(extension.as_str()),
        StoreError::Full { .. } => Refusal::no_space(),
        StoreError::Invalid(why) => Refusal::bad_content(why.clone()),
        _ => Refusal::try_later(error.to_string()),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Refusal::try_later(format!("internal error: {e}")))
}
