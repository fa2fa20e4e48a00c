//! Alarms and events posted to a receiver, signed (Standard Webhooks 1.0.0), one after the other.

use std::{path::PathBuf, time::Duration};

use reqwest::redirect::Policy;
use vmsync_config::{Config, alarms::WebhookChannel, words::NodeId};
use vmsync_core::alarm::{
    Item,
    webhook::{self, Answer},
};

use super::carrier::Failure;
use crate::{clock, delivery::client_tls, keys};

const CONNECT: Duration = Duration::from_secs(10);
/// From the first byte to the last of the answer (the specification asks for 15 to 30 s).
const WHOLE: Duration = Duration::from_secs(20);
/// Bytes of an answer that are read, for the error's text.
const ANSWER: usize = 512;

/// See the module's head.
pub(super) struct Driver {
    client: reqwest::Client,
    url: url::Url,
    secret_file: PathBuf,
    give_up_after: Duration,
    node: NodeId,
}

impl Driver {
    pub(super) fn new(channel: &WebhookChannel, config: &Config) -> Result<Self, String> {
        let tls = client_tls(config, channel.ca.as_deref(), false).map_err(|e| e.to_string())?;
        let client = reqwest::Client::builder()
            .use_preconfigured_tls((*tls).clone())
            // The signed body goes where the configuration says.
            .redirect(Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT)
            .timeout(WHOLE)
            .user_agent(concat!("vmsync/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| e.to_string())?;
        Ok(Self {
            client,
            url: channel.url.clone(),
            secret_file: channel.secret_file.clone(),
            give_up_after: channel.give_up_after,
            node: config.node.id.clone(),
        })
    }

    pub(super) async fn send(&self, item: &Item) -> Result<(), Failure> {
        let sent = self.post(item).await;
        let age = clock::wall().0.saturating_sub(item.notice.at.0);
        let old = u128::from(age) > self.give_up_after.as_millis();
        sent.map_err(|failure| Failure {
            for_good: failure.for_good || old,
            ..failure
        })
    }

    async fn post(&self, item: &Item) -> Result<(), Failure> {
        // Read for each: a secret that is changed is the new one at once.
        let file = self.secret_file.clone();
        let read = tokio::task::spawn_blocking(move || keys::read_secret_line(&file)).await;
        let line = match read {
            Ok(Ok(line)) => line,
            Ok(Err(e)) => return Err(Failure::new(e.to_string())),
            Err(e) => return Err(Failure::new(e.to_string())),
        };
        let named = |e| Failure::new(format!("{}: {e}", self.secret_file.display()));
        let secret = webhook::secret(&line).map_err(named)?;
        let (id, body, now) = (
            webhook::id(item),
            webhook::body(item, &self.node),
            clock::wall(),
        );
        let signature = webhook::signature(&secret, &id, now, &body);
        let request = self
            .client
            .post(self.url.clone())
            .header("content-type", "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", webhook::seconds(now).to_string())
            .header("webhook-signature", signature)
            .body(body);
        // Without its address: a query may hold a token.
        let lost = |e: reqwest::Error| Failure::new(causes(&e.without_url()));
        let mut response = request.send().await.map_err(lost)?;
        let status = response.status();
        match webhook::answer(status.as_u16()) {
            Answer::Taken => Ok(()),
            answer => {
                let not_within = response
                    .headers()
                    .get("retry-after")
                    .and_then(|value| webhook::retry_after(value.to_str().ok()?));
                let mut said = Vec::new();
                while said.len() < ANSWER {
                    match response.chunk().await {
                        Ok(Some(chunk)) => said.extend_from_slice(&chunk),
                        Ok(None) | Err(_) => break,
                    }
                }
                said.truncate(ANSWER);
                let said: String = String::from_utf8_lossy(&said)
                    .chars()
                    .map(|c| if c.is_control() { ' ' } else { c })
                    .collect();
                Err(Failure {
                    why: format!("the receiver answers {status}: {}", said.trim()),
                    for_good: answer == Answer::Gone,
                    refused: false,
                    not_within,
                })
            }
        }
    }
}

/// An error with what is behind it.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
