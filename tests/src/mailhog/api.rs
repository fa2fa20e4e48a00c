//! MailHog's HTTP API: `/api/v2/messages`, `/api/v2/search`, `/api/v1/messages`.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    routing::{delete, get},
};
use serde::{Deserialize, Serialize};

use super::{Item, Mails};

/// MailHog's default and largest page.
const PAGE: usize = 50;
const LARGEST_PAGE: usize = 250;

pub(super) fn router(mails: Mails) -> Router {
    Router::new()
        .route("/api/v2/messages", get(messages))
        .route("/api/v2/search", get(search))
        .route("/api/v1/messages", delete(delete_all).get(all))
        .route("/api/v1/messages/{id}", get(one).delete(delete_one))
        .with_state(mails)
}

#[derive(Deserialize)]
struct PageQuery {
    start: Option<usize>,
    limit: Option<usize>,
}

#[derive(Deserialize)]
struct SearchQuery {
    kind: String,
    query: String,
    start: Option<usize>,
    limit: Option<usize>,
}

#[derive(Serialize)]
struct Page {
    total: usize,
    count: usize,
    start: usize,
    items: Vec<Arc<Item>>,
}

fn page(found: Vec<Arc<Item>>, start: Option<usize>, limit: Option<usize>) -> Json<Page> {
    let start = start.unwrap_or(0);
    let limit = limit.unwrap_or(PAGE).min(LARGEST_PAGE);
    let total = found.len();
    let items: Vec<_> = found.into_iter().skip(start).take(limit).collect();
    Json(Page {
        total,
        count: items.len(),
        start,
        items,
    })
}

async fn messages(State(mails): State<Mails>, Query(q): Query<PageQuery>) -> Json<Page> {
    page(mails.newest_first(), q.start, q.limit)
}

async fn search(
    State(mails): State<Mails>,
    Query(q): Query<SearchQuery>,
) -> Result<Json<Page>, (StatusCode, &'static str)> {
    let wanted = q.query.to_lowercase();
    let has = |text: &str| text.to_lowercase().contains(&wanted);
    let matches = |m: &Item| match q.kind.as_str() {
        "from" => has(&m.raw.from),
        "to" => m.raw.to.iter().any(|t| has(t)),
        _ => has(&m.raw.data),
    };
    if !["from", "to", "containing"].contains(&q.kind.as_str()) {
        return Err((StatusCode::BAD_REQUEST, "kind is from, to or containing"));
    }
    let found = mails
        .newest_first()
        .into_iter()
        .filter(|m| matches(m))
        .collect();
    Ok(page(found, q.start, q.limit))
}

async fn all(State(mails): State<Mails>) -> Json<Vec<Arc<Item>>> {
    Json(mails.newest_first())
}

async fn one(
    State(mails): State<Mails>,
    Path(id): Path<String>,
) -> Result<Json<Arc<Item>>, StatusCode> {
    let found = mails.newest_first().into_iter().find(|m| m.id == id);
    found.map(Json).ok_or(StatusCode::NOT_FOUND)
}

async fn delete_all(State(mails): State<Mails>) -> StatusCode {
    mails.retain(|_| false);
    StatusCode::OK
}

async fn delete_one(State(mails): State<Mails>, Path(id): Path<String>) -> StatusCode {
    if mails.retain(|m| m.id != id) {
        StatusCode::OK
    } else {
        StatusCode::NOT_FOUND
    }
}
