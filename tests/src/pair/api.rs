//! What a test asks of a node over HTTP, and what it expects of the answer.

use std::time::Duration;

use reqwest::{Method, header::HeaderMap, redirect::Policy};
use serde_json::Value;

use super::{Node, soon};

/// A client that follows no redirects: where to go is part of what is tested.
pub fn client() -> reqwest::Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let client = reqwest::Client::builder()
        .redirect(Policy::none())
        .no_proxy()
        .timeout(Duration::from_secs(15))
        .build();
    client.unwrap_or_else(|e| panic!("an HTTP client: {e}"))
}

/// An answer, whole.
#[derive(Debug)]
pub struct Answer {
    /// The question, for messages.
    pub asked: String,
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Vec<u8>,
}

impl Answer {
    /// Fails the test unless the status is `status`.
    #[track_caller]
    pub fn must_be(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}: {}", self.asked, self.text());
        self
    }

    /// Fails the test unless it is a problem of this status and code whose detail holds each of `words`.
    #[track_caller]
    pub fn problem(self, status: u16, code: &str, words: &[&str]) -> Self {
        let this = self.must_be(status);
        let json = this.json();
        assert_eq!(json["code"], code, "{}: {json}", this.asked);
        assert_eq!(
            this.header("content-type"),
            "application/problem+json",
            "{}",
            this.asked
        );
        let detail = json["detail"].as_str().unwrap_or_default();
        for word in words {
            assert!(
                detail.contains(word),
                "{}: {detail:?} does not say {word:?}",
                this.asked
            );
        }
        this
    }

    /// The body as JSON; null where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
    }
}

/// A request in the making.
pub struct Call {
    asked: String,
    request: reqwest::RequestBuilder,
}

impl Call {
    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    /// A bearer token.
    #[must_use]
    pub fn token(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// A JSON body.
    #[must_use]
    pub fn json(mut self, body: &Value) -> Self {
        self.request = self.request.json(body);
        self
    }

    /// Any body.
    #[must_use]
    pub fn body(mut self, kind: &str, body: impl Into<Vec<u8>>) -> Self {
        self.request = self.request.header("content-type", kind).body(body.into());
        self
    }

    /// A WAV as body.
    #[must_use]
    pub fn wav(self, wav: &[u8]) -> Self {
        self.body("audio/wav", wav)
    }

    /// Sends it; `Err` when no answer came.
    pub async fn attempt(self) -> Result<Answer, String> {
        let failed = |e: reqwest::Error| format!("{e:?}");
        let response = self.request.send().await.map_err(failed)?;
        Ok(Answer {
            asked: self.asked,
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.bytes().await.map_err(failed)?.to_vec(),
        })
    }

    /// Sends it; fails the test when no answer came.
    pub async fn send(self) -> Answer {
        let asked = self.asked.clone();
        self.attempt()
            .await
            .unwrap_or_else(|e| panic!("{asked}: {e}"))
    }
}

impl Node {
    /// A request without a token.
    pub fn stranger(&self, method: Method, path: &str) -> Call {
        Call {
            asked: format!("{method} {path} at {}", self.id),
            request: self.client.request(method, format!("{}{path}", self.http)),
        }
    }

    /// A request with the admin token.
    pub fn request(&self, method: Method, path: &str) -> Call {
        self.stranger(method, path).token(&self.admin_token)
    }

    /// GET; `Err` unless the answer is 200.
    pub async fn try_get(&self, path: &str) -> Result<Value, String> {
        let answer = self.request(Method::GET, path).attempt().await?;
        if answer.status == 200 {
            Ok(answer.json())
        } else {
            Err(format!("{} {}", answer.status, answer.text()))
        }
    }

    /// GET; fails the test unless the answer is 200.
    pub async fn get(&self, path: &str) -> Value {
        self.request(Method::GET, path)
            .send()
            .await
            .must_be(200)
            .json()
    }

    /// POST with JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.request(Method::POST, path).json(body).send().await
    }

    /// PATCH with JSON.
    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.request(Method::PATCH, path).json(body).send().await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Answer {
        self.request(Method::DELETE, path).send().await
    }

    /// `GET /api/v1/status`, where the node answers.
    pub async fn try_status(&self) -> Result<Value, String> {
        self.try_get("/api/v1/status").await
    }

    /// Hands in a message over HTTP.
    pub fn deposit(&self, mailbox: &str, caller: &str, wav: &[u8]) -> Call {
        let path = format!("/api/v1/mailboxes/{mailbox}/messages?caller_number={caller}");
        self.request(Method::POST, &path).wav(wav)
    }

    /// Leaves a message, which must be taken; gives its id.
    pub async fn leave(&self, mailbox: &str, caller: &str, wav: &[u8]) -> String {
        let message = self
            .deposit(mailbox, caller, wav)
            .send()
            .await
            .must_be(201)
            .json();
        message["id"].as_str().unwrap_or_default().to_owned()
    }

    /// Messages of a mailbox in any state but `deleted`, oldest first.
    pub async fn try_messages(&self, mailbox: &str) -> Result<Vec<Value>, String> {
        let list = self
            .try_get(&format!("/api/v1/mailboxes/{mailbox}/messages"))
            .await?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Messages of a mailbox; the node must answer.
    pub async fn messages(&self, mailbox: &str) -> Vec<Value> {
        self.try_messages(mailbox)
            .await
            .unwrap_or_else(|e| panic!("{}: {e}", self.id))
    }

    /// Waits for the message `id`, and for its audio to be `wav`, byte for byte.
    pub async fn hears(&self, mailbox: &str, id: &str, wav: &[u8]) {
        let path = format!("/api/v1/mailboxes/{mailbox}/messages/{id}/audio");
        let audio = soon(&format!("message {id} at {}", self.id), async || {
            let answer = self.request(Method::GET, &path).attempt().await?;
            if answer.status == 200 {
                Ok(answer.body)
            } else {
                Err(answer.text())
            }
        })
        .await;
        assert!(audio == wav, "message {id} sounds different at {}", self.id);
    }

    /// Waits until a message's `field` is `value`.
    pub async fn shows(&self, mailbox: &str, id: &str, field: &str, value: &str) {
        let path = format!("/api/v1/mailboxes/{mailbox}/messages/{id}");
        soon(
            &format!("{field} of {id} to be {value} at {}", self.id),
            async || {
                let message = self.try_get(&path).await?;
                if message[field] == value {
                    Ok(())
                } else {
                    Err(message.to_string())
                }
            },
        )
        .await;
    }

    /// Waits until `path` is not found.
    pub async fn lacks(&self, path: &str) {
        soon(&format!("{path} to be gone at {}", self.id), async || {
            let answer = self.request(Method::GET, path).attempt().await?;
            if answer.status == 404 {
                Ok(())
            } else {
                Err(format!("{} {}", answer.status, answer.text()))
            }
        })
        .await;
    }
}
