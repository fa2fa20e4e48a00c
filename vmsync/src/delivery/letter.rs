//! Reads from the store what a mail says, and writes it.

use jiff::tz::TimeZone;
use uuid::Uuid;
use vmsync_config::{
    Config, Role,
    words::{EmailMode, Extension},
};
use vmsync_core::{
    delivery::{self, Attachment, Letter},
    wire::Voice,
};
use vmsync_store::{
    Stamp, Store,
    model::{Mailbox, Message},
};

/// A mail that is ready to go.
pub(super) struct Ready {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) mail: Vec<u8>,
    /// The message is to be deleted once it is mailed.
    pub(super) forwarded: bool,
}

/// What reading it for a mail came to.
pub(super) enum Read {
    Ready(Ready),
    /// There is nothing to mail any more.
    Over,
    /// No entry carries it.
    Uncarried(String),
    /// It can't be read here now.
    Unreadable(String),
    /// The mail can't be written at all.
    Unsendable(String),
}

/// Whose message it is and when it came, where it still waits.
pub(super) fn still_waits(store: &Store, id: Uuid) -> Option<Stamp> {
    let message = store.message(id).ok().flatten()?;
    message.emailed.is_none().then_some(message.stamp)
}

/// Reads message `id` of `mailbox` as it is now. `configured` is the entry's sender.
pub(super) fn read(
    store: &Store,
    config: &Config,
    configured: Option<&str>,
    zone: &TimeZone,
    mailbox: &Extension,
    id: Uuid,
) -> Read {
    let found = store
        .mailbox(mailbox)
        .and_then(|mailbox| Ok(mailbox.zip(store.message(id)?)));
    let (mailbox, message) = match found {
        Ok(Some(found)) => found,
        Ok(None) => return Read::Over,
        Err(e) => return Read::Unreadable(e.to_string()),
    };
    let (Some(to), mode) = (mailbox.email.clone(), mailbox.email_mode) else {
        return Read::Over;
    };
    if mode == EmailMode::Off || message.emailed.is_some() || message.email_failed.is_some() {
        return Read::Over;
    }
    let attachment = match mode {
        EmailMode::Copy | EmailMode::Forward => match store.read_audio(&message.audio) {
            Ok(bytes) => Some(Attachment {
                content_type: message.audio.content_type.clone(),
                audio: bytes.into(),
            }),
            Err(e) => return Read::Unreadable(e.to_string()),
        },
        EmailMode::Alert | EmailMode::Off => None,
    };
    let own = config.node.fqdn.as_str();
    let from = delivery::sender(
        configured,
        mailbox.email.as_deref(),
        &mailbox.name,
        &mailbox.extension,
        own,
    );
    let written = write(config, zone, &mailbox, &message, &from, &to, attachment);
    match written {
        Ok(mail) => Read::Ready(Ready {
            from,
            to,
            mail,
            forwarded: mode == EmailMode::Forward,
        }),
        Err(why) => Read::Unsendable(why),
    }
}

fn write(
    config: &Config,
    zone: &TimeZone,
    mailbox: &Mailbox,
    message: &Message,
    from: &str,
    to: &str,
    attachment: Option<Attachment>,
) -> Result<Vec<u8>, String> {
    let facts = &message.facts;
    let received_at = facts.received_at.unwrap_or(message.stamp.at.wall);
    let voice = Voice {
        mailbox: mailbox.extension.to_string(),
        caller_number: facts.caller_number.clone(),
        caller_name: facts.caller_name.clone(),
        duration_ms: message.audio.duration_ms,
        urgent: facts.urgent,
        private: facts.private,
        received_at: Some(received_at),
    };
    // The same on both nodes, so that a mail both have sent is one.
    let primary = match config.node.role {
        Role::Primary => &config.node.fqdn,
        Role::Secondary => &config.pair.peer,
    };
    delivery::write(&Letter {
        message: message.id,
        mode: mailbox.email_mode,
        from,
        to,
        name: &mailbox.name,
        called_number: facts.called_number.as_deref(),
        voice: &voice,
        received_at,
        zone,
        id_domain: primary.as_str(),
        attachment,
    })
    .map_err(|e| e.to_string())
}
