//! Mail that has come in: from the peer, applied before it is acknowledged; from a PBX, made a
//! message before it is acknowledged (architecture decision 8).

use std::{net::IpAddr, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::oneshot;
use vmsync_config::{Ack, Limits, show_duration, words::Extension};
use vmsync_core::{
    intake,
    smtp::{Accepted, Envelope, Recipient, Refusal, SmtpEvent, Verdict},
    wire::{self, Head, WireError},
};
use vmsync_store::{
    AudioRef, StoreError,
    model::{Message, MessageFacts},
};

use crate::{app::App, clock, exchange, node::Command, smtp::MailHandler};

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
        if !mail.is_bare() {
            self.note_meeting(&head).await?;
        }
        let applied = self
            .app
            .store(move |store| exchange::apply(store, &mail))
            .await
            .map_err(|e| self.not_applied(&e))?;
        let new = applied.new;
        tracing::debug!(mail = %head.id, operations = count, new, "mail of the peer applied");
        // The peer must not hear 250 before our decisions know what it said: order is kept by the channel.
        if self
            .app
            .node
            .commands
            .send(Command::Heard { head, applied })
            .await
            .is_err()
        {
            return Err(Refusal::try_later("this node is stopping"));
        }
        Ok(Accepted {
            text: format!("{new} of {count} operations were new, all are durable"),
        })
    }

    /// The first content of a session not heard of is not taken before it is noted what both held
    /// until then: a mail that was packed for the session before may overtake the hello of this one,
    /// and this process may end right after (R-SY-6).
    async fn note_meeting(&self, head: &Head) -> Result<(), Refusal> {
        if *self.app.node.peer_session.borrow() == Some(head.session) {
            return Ok(());
        }
        let stopping = || Refusal::try_later("this node is stopping");
        let (noted, told) = oneshot::channel();
        let head = head.clone();
        let meets = Command::Meets { head, noted };
        let sent = self.app.node.commands.send(meets).await;
        sent.map_err(|_| stopping())?;
        told.await.map_err(|_| stopping())
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
            let copies = self.app.acknowledged(&message).await;
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
        // Of a full disk the node loop tells, which watches it.
        let of = self.app.config.pair.peer_id.as_str();
        match error {
            StoreError::QuarantineFull { .. } => {
                let text = format!(
                    "{error}; nothing more of what can't be taken is passed over, so synchronisation stands still: see `quarantine` in GET /api/v1/sync for what is wrong with all of them"
                );
                self.app.alarms.raise("quarantine_full", of, &text);
            }
            // Refused for good, but never lost: the peer keeps it, and says so, and so do we.
            StoreError::Invalid(_) | StoreError::MissingAudio(_) => {
                self.app
                    .alarms
                    .raise("operation_refused", of, &error.to_string());
            }
            _ => {}
        }
        exchange::refusal(error)
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
