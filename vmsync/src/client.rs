//! A client of the control API, for the command line and the demo.

use std::time::Duration;

use reqwest::{Method, StatusCode, header};
use serde_json::Value;

/// Longest answer that is read into memory, bytes.
const LARGEST: usize = 64 * 1024 * 1024;

/// Why a call of the API failed, in words for a person.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// No answer at all.
    #[error("{url} can't be reached: {why}; is the node running, and is this its address?")]
    Unreachable {
        /// Address.
        url: String,
        /// Why.
        why: String,
    },
    /// The node refused; RFC 9457.
    #[error("{detail} ({code}, HTTP {status})")]
    Problem {
        /// HTTP status.
        status: u16,
        /// Stable code.
        code: String,
        /// In words.
        detail: String,
    },
}

/// Client of one node.
#[derive(Clone)]
pub struct ApiClient {
    http: reqwest::Client,
    base: String,
    token: String,
}

/// A body to send.
pub enum Body<'a> {
    /// Nothing.
    None,
    /// JSON.
    Json(&'a Value),
    /// Audio with its content type.
    Audio(&'a str, Vec<u8>),
}

/// An answer in full.
#[derive(Debug)]
pub struct Reply {
    /// Status.
    pub status: StatusCode,
    /// `Location`, where given.
    pub location: Option<String>,
    /// Body.
    pub body: Vec<u8>,
}

impl Reply {
    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

impl ApiClient {
    /// A client of the node at `base` (`http://host:port`).
    pub fn new(base: &str, token: &str) -> Result<Self, ClientError> {
        crate::pki::install_provider();
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(30))
            .connect_timeout(Duration::from_secs(3))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|e| unreachable_node(base, &e))?;
        Ok(Self {
            http,
            base: base.trim_end_matches('/').to_owned(),
            token: token.trim().to_owned(),
        })
    }

    /// GET of `path` (with its query) as JSON.
    pub async fn get(&self, path: &str) -> Result<Value, ClientError> {
        Ok(self.ok(Method::GET, path, &[], Body::None).await?.json())
    }

    /// GET of `path` as bytes.
    pub async fn get_bytes(&self, path: &str) -> Result<Vec<u8>, ClientError> {
        Ok(self.ok(Method::GET, path, &[], Body::None).await?.body)
    }

    /// POST of JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        Ok(self
            .ok(Method::POST, path, &[], Body::Json(body))
            .await?
            .json())
    }

    /// A call whose answer is an error unless it is 2xx.
    pub async fn ok(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Body<'_>,
    ) -> Result<Reply, ClientError> {
        let reply = self.call(method, path, headers, body).await?;
        if reply.status.is_success() {
            return Ok(reply);
        }
        let problem = reply.json();
        let text = |name: &str| problem[name].as_str().map(str::to_owned);
        Err(ClientError::Problem {
            status: reply.status.as_u16(),
            code: text("code").unwrap_or_else(|| "unknown".to_owned()),
            detail: text("detail").or_else(|| text("title")).unwrap_or_else(|| {
                String::from_utf8_lossy(&reply.body)
                    .chars()
                    .take(300)
                    .collect()
            }),
        })
    }

    /// A call with whatever answer comes; redirects are not followed.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Body<'_>,
    ) -> Result<Reply, ClientError> {
        let url = format!("{}{path}", self.base);
        let mut request = self.http.request(method, &url).bearer_auth(&self.token);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request = match body {
            Body::None => request,
            Body::Json(json) => request.json(json),
            Body::Audio(kind, bytes) => request.header(header::CONTENT_TYPE, kind).body(bytes),
        };
        let response = request
            .send()
            .await
            .map_err(|e| unreachable_node(&url, &e))?;
        let status = response.status();
        let location = response
            .headers()
            .get(header::LOCATION)
            .and_then(|v| v.to_str().ok())
            .map(str::to_owned);
        if response
            .content_length()
            .is_some_and(|n| n > LARGEST as u64)
        {
            return Err(ClientError::Unreachable {
                url,
                why: format!("an answer of more than {LARGEST} bytes"),
            });
        }
        let body = response
            .bytes()
            .await
            .map_err(|e| unreachable_node(&url, &e))?;
        Ok(Reply {
            status,
            location,
            body: body.to_vec(),
        })
    }
}

fn unreachable_node(url: &str, error: &reqwest::Error) -> ClientError {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(next) = deepest.source() {
        deepest = next;
    }
    ClientError::Unreachable {
        url: url.to_owned(),
        why: deepest.to_string(),
    }
}
