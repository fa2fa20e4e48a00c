//! Reads a mail between the nodes.
//!
//! Order: structure (bounded), signature over the decoded machine part, version, addressee,
//! then each attachment against its SHA-256, wherever in the mail it stands. A part the manifest does not name is not read.

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use vmsync_config::words::NodeId;

use super::{
    CarriedAudio, Keys, Mail, WireError,
    manifest::{Attachment, CONTENT_TYPE, Manifest},
    mime::{self, Leaf},
};

/// Reads `mail` if it is signed with one of `keys` and meant for `me`. Each byte of audio is
/// hashed once; audio that came without transfer encoding shares the memory of `mail`.
pub fn decode(mail: &Bytes, keys: &Keys, me: &NodeId) -> Result<Mail, WireError> {
    let split = mime::split_messages(mail).map_err(WireError::Malformed)?;
    let signatures = split.head.raw("Vmsync-Signature");
    // Two signatures or two machine parts: no telling which one would have been meant.
    let [signature] = signatures.as_slice() else {
        return Err(WireError::Unsigned);
    };
    let json = machine_part(&split.leaves)?;
    let signature = std::str::from_utf8(signature).unwrap_or_default();
    if !keys.verify("mail", &json, signature) {
        return Err(WireError::BadSignature);
    }
    // From here on the content is the peer's, or what a holder of the key wrote.
    let manifest = Manifest::read(&json)?;
    if manifest.head.to != *me {
        return Err(WireError::WrongNode {
            to: manifest.head.to.to_string(),
            me: me.to_string(),
        });
    }
    if manifest.head.from.node == *me {
        return Err(WireError::Malformed(format!(
            "it claims to come from {me}, which is this node; the two nodes need different ids"
        )));
    }
    let audio = attachments(&manifest.attachments, &split.leaves, mail)?;
    Ok(Mail {
        head: manifest.head,
        operations: manifest.operations,
        records: manifest.records,
        seed: manifest.seed,
        items: manifest.items,
        skips: manifest.skips,
        release: manifest.release,
        audio,
    })
}

/// The decoded bytes of the one machine part.
fn machine_part<'a>(leaves: &[Leaf<'a>]) -> Result<Cow<'a, [u8]>, WireError> {
    let mut found = leaves
        .iter()
        .filter(|leaf| leaf.head().content_type() == CONTENT_TYPE);
    match (found.next(), found.next()) {
        (Some(leaf), None) => leaf
            .decode()
            .map_err(|why| WireError::Malformed(format!("the machine part: {why}"))),
        _ => Err(WireError::Unsigned),
    }
}

/// The attachments the manifest names, each proved.
fn attachments(
    named: &[Attachment],
    leaves: &[Leaf<'_>],
    mail: &Bytes,
) -> Result<Vec<CarriedAudio>, WireError> {
    let by_id: BTreeMap<String, &Leaf<'_>> = leaves
        .iter()
        .filter_map(|leaf| Some((leaf.head().content_id()?, leaf)))
        .collect();
    named
        .iter()
        .map(|attachment| {
            let wanted = attachment.essentials()?;
            let damaged = || WireError::Attachment(wanted.blob.to_string());
            let leaf = by_id.get(&attachment.content_id).ok_or_else(damaged)?;
            let bytes = match leaf.decode().map_err(|_| damaged())? {
                // No copy: it stands in the mail as it is.
                Cow::Borrowed(part) => mail.slice_ref(part),
                Cow::Owned(bytes) => Bytes::from(bytes),
            };
            CarriedAudio::new(attachment.about.clone(), bytes).prove(&wanted)
        })
        .collect()
}
