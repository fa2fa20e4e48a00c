//! Answering the other node.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use serde::{Serialize, de::DeserializeOwned};
use vmsync_config::words::Vector;
use vmsync_core::resilience::Request;

use super::{
    ACT, Act, Acted, Answer, CONFIRM, ConfirmQuestion, FEATURE, FeatureAct, FeatureActed,
    HEARTBEAT, LARGEST, ONE_SIDED, Question, Report, SIGNATURE, question_is_signed, sign_answer,
};
use crate::{
    app::{App, Refused},
    clock,
    features::Ask,
    node::{self, Command},
};

/// Nonces of acting questions kept for this life; beyond it such questions are refused until a restart.
const MOST_ACTS: usize = 100_000;

struct Shared {
    app: Arc<App>,
    acted: Mutex<HashSet<uuid::Uuid>>,
}

/// The routes under `/pair/v1`.
pub fn router(app: Arc<App>) -> Router {
    let shared = Arc::new(Shared {
        app,
        acted: Mutex::default(),
    });
    Router::new()
        .route(HEARTBEAT, post(heartbeat))
        .route(ACT, post(act))
        .route(FEATURE, post(feature))
        .route(CONFIRM, post(confirm))
        .route(ONE_SIDED, post(one_sided))
        .layer(DefaultBodyLimit::max(LARGEST))
        .with_state(shared)
}

async fn heartbeat(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Denied> {
    let question: Question<Report> = shared.read(HEARTBEAT, &headers, &body)?;
    let (report, at) = (question.body, clock::now());
    let ours = shared
        .app
        .node
        .ask(|answer| Command::Heartbeat { report, at, answer })
        .await
        .ok_or(Denied::Stopping)?;
    shared.answer(HEARTBEAT, question.nonce, &ours)
}

async fn act(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Denied> {
    let question: Question<Act> = shared.read(ACT, &headers, &body)?;
    shared.once(&question)?;
    let Act {
        group,
        request,
        guard,
    } = question.body;
    let request = match request.as_str() {
        "activate-backup" => Request::ActivateBackup,
        "failback" => Request::Failback { force: guard.force },
        _ => return Err(Denied::Malformed(format!("unknown request {request:?}"))),
    };
    let acted: Acted = shared
        .app
        .node
        .ask(|answer| Command::Request {
            group,
            request,
            guard,
            forwarded: true,
            answer,
        })
        .await
        .unwrap_or_else(|| {
            Err(Refused {
                code: "stopping".to_owned(),
                reason: "the node is stopping".to_owned(),
            })
        });
    shared.answer(ACT, question.nonce, &acted)
}

async fn feature(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Denied> {
    let question: Question<FeatureAct> = shared.read(FEATURE, &headers, &body)?;
    shared.once(&question)?;
    let FeatureAct {
        system,
        feature,
        dry_run,
        expected_epoch,
    } = question.body;
    let ask = Ask {
        dry_run,
        expected_epoch,
    };
    let (app, now) = (&shared.app, clock::now());
    // Done here and never passed on again.
    let done = app.features.failback(app, &system, feature, ask, now).await;
    let acted: FeatureActed = done.map_err(Refused::from);
    shared.answer(FEATURE, question.nonce, &acted)
}

async fn one_sided(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Denied> {
    let question: Question<Vector> = shared.read(ONE_SIDED, &headers, &body)?;
    let have = question.body;
    let held = shared.app.store(move |s| node::one_sided(s, &have)).await;
    let held = held.map_err(|e| Denied::Failed(e.to_string()))?;
    shared.answer(ONE_SIDED, question.nonce, &held)
}

async fn confirm(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Denied> {
    let question: Question<ConfirmQuestion> = shared.read(CONFIRM, &headers, &body)?;
    let folder = shared.app.config.vrl.folder.clone();
    let ConfirmQuestion {
        name,
        bytes,
        sha256,
    } = question.body;
    let answer = tokio::task::spawn_blocking(move || {
        crate::vrl::confirm_local(&folder, &name, bytes, &sha256)
    })
    .await
    .map_err(|e| Denied::Failed(e.to_string()))?
    .map_err(|e| Denied::Failed(e.to_string()))?;
    shared.answer(CONFIRM, question.nonce, &answer)
}

impl Shared {
    fn read<T: DeserializeOwned>(
        &self,
        path: &str,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Question<T>, Denied> {
        let tag = headers.get(SIGNATURE).and_then(|v| v.to_str().ok());
        let signed = tag.is_some_and(|t| question_is_signed(&self.app.keys, path, body, t));
        if !signed {
            self.app.alarms.raise(
                "bad_signature",
                path,
                "a question between the nodes was not signed with the pair's key; put the same key file on both nodes",
            );
            return Err(Denied::Unsigned);
        }
        let question: Question<T> =
            serde_json::from_slice(body).map_err(|e| Denied::Malformed(e.to_string()))?;
        if question.from != self.app.config.pair.peer_id {
            return Err(Denied::Stranger(question.from.to_string()));
        }
        Ok(question)
    }

    /// A question that acts is meant for this life of the process, and taken once in it.
    fn once<T>(&self, question: &Question<T>) -> Result<(), Denied> {
        if question.to_boot != Some(self.app.node.boot) {
            return Err(Denied::Replayed);
        }
        let mut acted = self.acted.lock().unwrap_or_else(PoisonError::into_inner);
        if acted.len() >= MOST_ACTS || !acted.insert(question.nonce) {
            return Err(Denied::Replayed);
        }
        Ok(())
    }

    fn answer<T: Serialize>(
        &self,
        path: &str,
        nonce: uuid::Uuid,
        body: &T,
    ) -> Result<Response, Denied> {
        let bytes = serde_json::to_vec(&Answer { nonce, body })
            .map_err(|e| Denied::Failed(e.to_string()))?;
        let tag = sign_answer(&self.app.keys, path, &bytes);
        Ok(([(SIGNATURE, tag)], bytes).into_response())
    }
}

/// Why a question of the peer was not answered.
enum Denied {
    Unsigned,
    Stranger(String),
    Replayed,
    Malformed(String),
    Failed(String),
    Stopping,
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        match self {
            Self::Unsigned => (
                StatusCode::UNAUTHORIZED,
                "not signed with this pair's key".to_owned(),
            ),
            Self::Stranger(node) => (
                StatusCode::FORBIDDEN,
                format!("{node} is not this node's peer; check pair.peer_id"),
            ),
            Self::Replayed => (
                StatusCode::CONFLICT,
                "the question is for an earlier life of this process, or came before".to_owned(),
            ),
            Self::Malformed(why) => (StatusCode::BAD_REQUEST, why),
            Self::Failed(why) => (StatusCode::INTERNAL_SERVER_ERROR, why),
            Self::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping".to_owned()),
        }
        .into_response()
    }
}
