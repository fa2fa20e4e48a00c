//! Asking the other node.

use std::time::Duration;

use futures_util::StreamExt;
use serde::{Serialize, de::DeserializeOwned};
use vmsync_config::words::{NodeId, Vector};
use vmsync_core::wire::Keys;

use super::{
    ACT, Act, Acted, Answer, CONFIRM, ConfirmQuestion, FEATURE, FeatureAct, FeatureActed,
    HEARTBEAT, LARGEST, ONE_SIDED, Question, Report, SIGNATURE, answer_is_signed, sign_question,
};

use crate::node::OneSided;

/// Why the other node gave no answer that counts.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PeerError {
    /// Not reached.
    #[error("{url} did not answer: {why}")]
    Unreachable {
        /// Address.
        url: String,
        /// Why.
        why: String,
    },
    /// Asked, and silent: what was asked for may have been done.
    #[error("{url} did not answer: {why}")]
    Silent {
        /// Address.
        url: String,
        /// Why.
        why: String,
    },
    /// It refused the question; mostly another key file.
    #[error("{url} answered {status}: {text}")]
    Refused {
        /// Address.
        url: String,
        /// HTTP status.
        status: u16,
        /// Its words, cut.
        text: String,
    },
    /// The answer is not the peer's.
    #[error("{url} answered without the pair's key: both nodes need the same key file")]
    Forged {
        /// Address.
        url: String,
    },
    /// The answer does not parse.
    #[error("{url} answered something else: {why}")]
    Malformed {
        /// Address.
        url: String,
        /// Why.
        why: String,
    },
}

/// Client of the peer's `/pair/v1` routes. Cheap to clone.
#[derive(Clone)]
pub struct PeerClient {
    http: reqwest::Client,
    base: url::Url,
    keys: Keys,
    me: NodeId,
}

impl PeerClient {
    /// A client of the peer at `base`, which speaks for `me`.
    pub fn new(base: url::Url, keys: Keys, me: NodeId) -> Result<Self, reqwest::Error> {
        crate::pki::install_provider();
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(2))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .tcp_nodelay(true)
            .build()?;
        Ok(Self {
            http,
            base,
            keys,
            me,
        })
    }

    /// One heartbeat: tells ours, gets theirs.
    pub async fn heartbeat(&self, ours: &Report, limit: Duration) -> Result<Report, PeerError> {
        self.ask(HEARTBEAT, None, ours, limit).await
    }

    /// Forwards an operator's request to the peer in life `boot` of its process.
    pub(crate) async fn act(&self, boot: u64, act: &Act) -> Result<Acted, PeerError> {
        self.ask(ACT, Some(boot), act, Duration::from_secs(5)).await
    }

    /// Passes an administrator's failback of a feature on to the peer in life `boot` of its process.
    pub(crate) async fn feature(
        &self,
        boot: u64,
        act: &FeatureAct,
    ) -> Result<FeatureActed, PeerError> {
        self.ask(FEATURE, Some(boot), act, Duration::from_secs(5))
            .await
    }

    /// Asks what the peer holds beyond `have`.
    pub(crate) async fn one_sided(&self, have: Vector) -> Result<OneSided, PeerError> {
        self.ask(ONE_SIDED, None, &have, Duration::from_secs(5))
            .await
    }

    /// Asks whether a recording is there, whole and durable. Hashing a large one takes a while.
    pub async fn confirm_recording(
        &self,
        name: &str,
        bytes: u64,
        sha256: &str,
    ) -> Result<crate::vrl::ConfirmAnswer, PeerError> {
        let question = ConfirmQuestion {
            name: name.to_owned(),
            bytes,
            sha256: sha256.to_owned(),
        };
        // It may have to be read from a slow disk.
        let reading = Duration::from_secs(bytes / (50 << 20));
        let limit = Duration::from_mins(2).saturating_add(reading);
        self.ask(CONFIRM, None, &question, limit).await
    }

    async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        path: &str,
        to_boot: Option<u64>,
        body: &Q,
        limit: Duration,
    ) -> Result<A, PeerError> {
        let url = self.base.join(path).map_err(|e| PeerError::Malformed {
            url: self.base.to_string(),
            why: e.to_string(),
        })?;
        let asked = self.ask_at(&url, path, to_boot, body);
        match tokio::time::timeout(limit, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(PeerError::Silent {
                url: url.to_string(),
                why: format!("no answer within {} ms", limit.as_millis()),
            }),
        }
    }

    async fn ask_at<Q: Serialize, A: DeserializeOwned>(
        &self,
        url: &url::Url,
        path: &str,
        to_boot: Option<u64>,
        body: &Q,
    ) -> Result<A, PeerError> {
        let malformed = |why: String| PeerError::Malformed {
            url: url.to_string(),
            why,
        };
        let nonce = uuid::Uuid::new_v4();
        let question = Question {
            nonce,
            from: self.me.clone(),
            to_boot,
            body,
        };
        let bytes = serde_json::to_vec(&question).map_err(|e| malformed(e.to_string()))?;
        let tag = sign_question(&self.keys, path, &bytes);
        let response = self
            .http
            .post(url.clone())
            .header(SIGNATURE, tag)
            .header("content-type", "application/json")
            .body(bytes)
            .send()
            .await
            .map_err(|e| {
                let (url, why) = (url.to_string(), cause(&e));
                if e.is_connect() {
                    PeerError::Unreachable { url, why }
                } else {
                    PeerError::Silent { url, why }
                }
            })?;
        let status = response.status().as_u16();
        let tag = response
            .headers()
            .get(SIGNATURE)
            .and_then(|v| v.to_str().ok())
            .map(str::to_owned);
        let answer = bounded(response).await.map_err(|why| PeerError::Silent {
            url: url.to_string(),
            why,
        })?;
        if status != 200 {
            let text: String = String::from_utf8_lossy(&answer).chars().take(300).collect();
            return Err(PeerError::Refused {
                url: url.to_string(),
                status,
                text,
            });
        }
        let signed = tag.is_some_and(|t| answer_is_signed(&self.keys, path, &answer, &t));
        if !signed {
            return Err(PeerError::Forged {
                url: url.to_string(),
            });
        }
        let answer: Answer<A> =
            serde_json::from_slice(&answer).map_err(|e| malformed(e.to_string()))?;
        if answer.nonce != nonce {
            return Err(PeerError::Forged {
                url: url.to_string(),
            });
        }
        Ok(answer.body)
    }
}

/// Reads a body of at most [`LARGEST`] bytes.
async fn bounded(response: reqwest::Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        body.extend_from_slice(&chunk.map_err(|e| cause(&e))?);
        if body.len() > LARGEST {
            return Err(format!("an answer of more than {LARGEST} bytes"));
        }
    }
    Ok(body)
}

/// The innermost cause: "Connection refused" says more than "error sending request".
fn cause(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(next) = deepest.source() {
        deepest = next;
    }
    deepest.to_string()
}
