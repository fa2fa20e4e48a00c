//! `/api/docs`: the OpenAPI document as a page, made here; nothing comes from elsewhere.

use std::sync::Arc;

use axum::{
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};
use serde_json::Value;

use super::{
    Console, SignedIn,
    layout::{Here, page},
};
use crate::http::auth;

/// For who is signed in, and for whoever has a token.
pub(super) async fn docs(
    State(console): State<Arc<Console>>,
    signed_in: Option<SignedIn>,
    headers: HeaderMap,
) -> Response {
    let session = signed_in.map(|s| s.session);
    if session.is_none() && !auth::reads(&console.app.tokens, &headers) {
        return Redirect::to("/login?next=/api/docs").into_response();
    }
    let body = document(&console.document);
    page(&console.app, session.as_ref(), Here::Docs, "API", &body).into_response()
}

/// Methods in the order they are shown.
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

fn document(document: &Value) -> Markup {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let empty = Vec::new();
    let tags = document["tags"].as_array().unwrap_or(&empty);
    html! {
        header.head {
            h1 { (text(&document["info"]["title"])) }
            p { (prose(&text(&document["info"]["description"]))) }
            p.muted { "OpenAPI document: " code { "/api/v1/openapi.json" } " (with a token)" }
        }
        nav.chips-nav aria-label="Sections" {
            @for tag in tags { a href={ "#" (text(&tag["name"])) } { (text(&tag["name"])) } }
        }
        @for tag in tags {
            section.docs id=(text(&tag["name"])) {
                h2 { (text(&tag["name"])) }
                p.muted { (text(&tag["description"])) }
                @for (path, method, operation) in operations(document, &text(&tag["name"])) {
                    (operation_card(&path, method, operation))
                }
            }
        }
        section.docs id="schemas" {
            h2 { "Shapes" }
            @if let Some(schemas) = document["components"]["schemas"].as_object() {
                @for (name, schema) in schemas { (shape(name, schema)) }
            }
        }
    }
}

/// Operations of a tag: path, method, description.
fn operations<'a>(document: &'a Value, tag: &str) -> Vec<(String, &'static str, &'a Value)> {
    let Some(paths) = document["paths"].as_object() else {
        return Vec::new();
    };
    paths
        .iter()
        .flat_map(|(path, item)| METHODS.map(|m| (path.clone(), m, &item[m])))
        .filter(|(_, _, operation)| operation["tags"][0] == tag)
        .collect()
}

fn operation_card(path: &str, method: &str, operation: &Value) -> Markup {
    let parameters = operation["parameters"].as_array();
    html! {
        details.operation {
            summary {
                span.method.(method) { (method.to_uppercase()) }
                code { (path) }
                span.muted { (prose(operation["summary"].as_str().unwrap_or_default())) }
            }
            @if let Some(text) = operation["description"].as_str() { p { (prose(text)) } }
            @if let Some(parameters) = parameters {
                table {
                    thead { tr { th scope="col" { "Parameter" } th scope="col" { "In" } th scope="col" { "Meaning" } } }
                    tbody {
                        @for p in parameters {
                            tr {
                                td { code { (p["name"].as_str().unwrap_or_default()) } @if p["required"] == true { " *" } }
                                td { (p["in"].as_str().unwrap_or_default()) }
                                td { (prose(p["description"].as_str().unwrap_or_default())) }
                            }
                        }
                    }
                }
            }
            @if let Some(body) = content(&operation["requestBody"]) { p { "Body: " (body) } }
            @if let Some(responses) = operation["responses"].as_object() {
                ul.responses {
                    @for (status, response) in responses {
                        li {
                            strong { (status) } " "
                            (prose(response["description"].as_str().unwrap_or_default())) " "
                            @if let Some(body) = content(response) { (body) }
                        }
                    }
                }
            }
        }
    }
}

/// Media types and shapes of a body.
fn content(body: &Value) -> Option<Markup> {
    let content = body["content"].as_object()?;
    Some(html! {
        @for (kind, media) in content {
            span.media { code { (kind) } " " (type_of(&media["schema"])) } " "
        }
    })
}

fn shape(name: &str, schema: &Value) -> Markup {
    html! {
        details.operation id={ "shape-" (name) } {
            summary { code { (name) } span.muted { (prose(schema["description"].as_str().unwrap_or_default())) } }
            @if let Some(fields) = schema["properties"].as_object() {
                table {
                    thead { tr { th scope="col" { "Field" } th scope="col" { "Type" } th scope="col" { "Meaning" } } }
                    tbody {
                        @for (field, schema) in fields {
                            tr {
                                td { code { (field) } }
                                td { (type_of(schema)) }
                                td { (prose(schema["description"].as_str().unwrap_or_default())) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The type of a schema in a word, linked where it is a named shape.
fn type_of(schema: &Value) -> Markup {
    if let Some(name) = schema["$ref"].as_str().and_then(|r| r.rsplit('/').next()) {
        return html! { a href={ "#shape-" (name) } { (name) } };
    }
    if let Some(one) = schema["oneOf"]
        .as_array()
        .and_then(|all| all.iter().find(|s| s["type"] != "null"))
    {
        return html! { (type_of(one)) " or null" };
    }
    match &schema["type"] {
        Value::String(kind) if kind == "array" => html! { "list of " (type_of(&schema["items"])) },
        Value::String(kind) => html! { (kind) },
        Value::Array(kinds) => {
            let words: Vec<_> = kinds.iter().filter_map(Value::as_str).collect();
            html! { (words.join(" or ")) }
        }
        _ => html! { "any" },
    }
}

/// Text with `code` marked.
fn prose(text: &str) -> Markup {
    html! {
        @for (n, piece) in text.split('`').enumerate() {
            @if n % 2 == 1 { code { (piece) } } @else { (piece) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_becomes_a_page() {
        let json = serde_json::json!({
            "info": {"title": "An API", "description": "It `works`."},
            "tags": [{"name": "lamps", "description": "All lamps"}],
            "paths": {"/lamps": {"get": {
                "tags": ["lamps"], "summary": "Lists lamps.",
                "responses": {"200": {"description": "", "content": {"application/json":
                    {"schema": {"$ref": "#/components/schemas/Lamp"}}}}}
            }}},
            "components": {"schemas": {"Lamp": {"properties": {
                "on": {"type": "boolean", "description": "Lit"},
                "name": {"type": ["string", "null"]}
            }}}}
        });
        let html = document(&json).into_string();
        for expected in [
            "GET",
            "/lamps",
            "Lists lamps.",
            "href=\"#shape-Lamp\"",
            "boolean",
            "string or null",
            "<code>works</code>",
        ] {
            assert!(html.contains(expected), "{expected} is missing in {html}");
        }
    }
}
