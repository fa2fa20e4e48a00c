//! The API's own description (OpenAPI 3.1).

use utoipa::{
    Modify, OpenApi,
    openapi::{
        ContentBuilder, OpenApi as Document, Ref, ResponseBuilder,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use super::problem::ProblemBody;

const ABOUT: &str = "One node of a resilient pair of voicemail servers. \
Reading needs a token of scope `read`, everything else `admin`. \
A write about a mailbox that reaches the node that doesn't serve it is answered 307 with `Location`. \
Every error is `application/problem+json` (RFC 9457) with a stable `code`.";

#[derive(OpenApi)]
#[openapi(
    info(title = "vmsync control API", description = ABOUT),
    components(schemas(ProblemBody)),
    security(("token" = [])),
    modifiers(&Common),
    tags(
        (name = "pair", description = "Who serves whom, and the operator's requests"),
        (name = "features", description = "The other resilience features, for PBXs to act on"),
        (name = "mailboxes", description = "Mailboxes and greetings"),
        (name = "messages", description = "Voice messages"),
        (name = "calls", description = "Calls in progress"),
        (name = "callflows", description = "Call flows"),
        (name = "recordings", description = "Call recordings (VRL)"),
        (name = "store", description = "Backups of this node"),
        (name = "watching", description = "Alarms, events, synchronisation")
    )
)]
struct Base;

struct Common;

impl Modify for Common {
    fn modify(&self, document: &mut Document) {
        let components = document.components.get_or_insert_default();
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        components.add_security_scheme("token", SecurityScheme::Http(bearer));
        let problem = ContentBuilder::new()
            .schema(Some(Ref::from_schema_name("Problem")))
            .build();
        let response = ResponseBuilder::new()
            .description("What is wrong and what to do (RFC 9457)")
            .content("application/problem+json", problem)
            .build();
        components
            .responses
            .insert("Problem".to_owned(), response.into());
    }
}

/// The document without its paths; the router adds them.
pub(super) fn document() -> Document {
    Base::openapi()
}
