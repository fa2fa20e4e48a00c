//! What the story's steps check with: from outside, over HTTP, each waiting within a limit.

use std::time::Duration;

use reqwest::Method;
use serde_json::Value;

use super::story::{MAIL_ID, ONE, SOON, TWO};
use crate::client::{ApiClient, Body};

/// Deposits [`TWO`]; the same `key` is one message however often it is sent.
pub(super) async fn deposit(
    client: &ApiClient,
    mailbox: &str,
    caller: &str,
    key: &str,
) -> Result<String, String> {
    let path =
        format!("/api/v1/mailboxes/{mailbox}/messages?caller_number={caller}&caller_name=Demo");
    let message = soon("leave a message", || async {
        let body = Body::Audio("audio/wav", TWO.to_vec());
        client
            .ok(Method::POST, &path, &[("idempotency-key", key)], body)
            .await
            .map_err(|e| e.to_string())
    })
    .await?;
    Ok(message.json()["id"].as_str().unwrap_or_default().to_owned())
}

/// The one message of `caller` in `mailbox`; two would be one too many.
pub(super) async fn one_message(
    client: &ApiClient,
    mailbox: &str,
    caller: &str,
) -> Result<Value, String> {
    let path = format!("/api/v1/mailboxes/{mailbox}/messages");
    soon("the message", || async {
        let list = get(client, &path).await?;
        let empty = Vec::new();
        let found: Vec<_> = list["items"]
            .as_array()
            .unwrap_or(&empty)
            .iter()
            .filter(|m| m["caller_number"] == caller)
            .collect();
        match found.as_slice() {
            [one] => Ok((*one).clone()),
            other => Err(format!(
                "{mailbox} has {} messages of {caller}",
                other.len()
            )),
        }
    })
    .await
}

pub(super) async fn same_audio(
    client: &ApiClient,
    mailbox: &str,
    caller: &str,
    wav: &[u8],
) -> Result<(), String> {
    let message = one_message(client, mailbox, caller).await?;
    let id = message["id"].as_str().unwrap_or_default();
    let path = format!("/api/v1/mailboxes/{mailbox}/messages/{id}/audio");
    let audio = soon("the audio", || async {
        client.get_bytes(&path).await.map_err(|e| e.to_string())
    })
    .await?;
    if audio == wav {
        Ok(())
    } else {
        Err(format!("message {id} of {mailbox} sounds different"))
    }
}

pub(super) async fn get(client: &ApiClient, path: &str) -> Result<Value, String> {
    client.get(path).await.map_err(|e| e.to_string())
}

pub(super) fn owner(status: &Value) -> Result<String, String> {
    status["groups"][0]["owner"]
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| format!("no group in {status}"))
}

pub(super) fn equal_digests(status: &Value) -> bool {
    status["sync"]["digest"].is_string()
        && status["sync"]["digest"] == status["sync"]["peer_digest"]
}

/// Tries until it works; the last reason when it does not within [`SOON`].
pub(super) async fn soon<T, F: Future<Output = Result<T, String>>>(
    what: &str,
    mut attempt: impl FnMut() -> F,
) -> Result<T, String> {
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(why) if tokio::time::Instant::now() > deadline => {
                return Err(format!("waited {} s for {what}: {why}", SOON.as_secs()));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(40)).await,
        }
    }
}

/// What Asterisk's `app_voicemail` mails with `attach=yes`.
pub(super) fn asterisk_mail(fqdn: &str) -> Vec<u8> {
    use base64::Engine;
    let audio = base64::engine::general_purpose::STANDARD.encode(ONE);
    let mut lines = format!(
        "Date: Sun, 22 Nov 2026 09:00:00 +0000\r\n\
         From: \"Asterisk PBX\" <asterisk@pbx.demo.example>\r\n\
         To: \"Ada Lovelace\" <2001@{fqdn}>\r\n\
         Subject: [PBX]: New message 1 in mailbox 2001\r\n\
         Message-ID: {MAIL_ID}\r\n\
         X-Asterisk-CallerID: 5551234\r\n\
         X-Asterisk-CallerIDName: Charles Babbage\r\n\
         MIME-Version: 1.0\r\n\
         Content-Type: multipart/mixed; boundary=\"----voicemail_1\"\r\n\
         \r\n\
         ------voicemail_1\r\n\
         Content-Type: text/plain; charset=UTF-8\r\n\
         \r\n\
         Dear Ada Lovelace: you have a message (number 1) in mailbox 2001 from Charles Babbage <5551234>.\r\n\
         \r\n\
         ------voicemail_1\r\n\
         Content-Type: audio/x-wav; name=\"msg0000.wav\"\r\n\
         Content-Transfer-Encoding: base64\r\n\
         Content-Disposition: attachment; filename=\"msg0000.wav\"\r\n\
         \r\n"
    );
    for line in audio.as_bytes().chunks(76) {
        lines.push_str(&String::from_utf8_lossy(line));
        lines.push_str("\r\n");
    }
    lines.push_str("------voicemail_1--\r\n");
    lines.into_bytes()
}
