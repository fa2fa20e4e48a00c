//! The console as a browser without scripts sees it.

use reqwest::{RequestBuilder, Response, StatusCode};

use crate::support::{ADMIN, Node, READ, wav};

/// A browser that keeps the node's cookie.
struct Browser<'a> {
    node: &'a Node,
    cookie: String,
}

impl<'a> Browser<'a> {
    async fn sign_in(node: &'a Node, token: &str) -> Self {
        let response = post(node, "/login", &[("token", token)])
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::SEE_OTHER);
        assert_eq!(response.headers()["location"], "/");
        let cookie = response.headers()["set-cookie"].to_str().unwrap();
        for attribute in ["HttpOnly", "SameSite=Strict", "Path=/"] {
            assert!(cookie.contains(attribute), "{cookie}");
        }
        assert!(!cookie.contains(token), "the token itself is in the cookie");
        Self {
            node,
            cookie: cookie.split(';').next().unwrap().to_owned(),
        }
    }

    async fn open(&self, path: &str) -> Response {
        let request = self.node.http.get(format!("{}{path}", self.node.url));
        request.header("Cookie", &self.cookie).send().await.unwrap()
    }

    async fn page(&self, path: &str) -> String {
        let response = self.open(path).await;
        assert_eq!(response.status(), 200, "{path}");
        response.text().await.unwrap()
    }

    async fn submit(&self, path: &str, fields: &[(&str, &str)]) -> Response {
        post(self.node, path, fields)
            .header("Cookie", &self.cookie)
            .send()
            .await
            .unwrap()
    }
}

fn post(node: &Node, path: &str, fields: &[(&str, &str)]) -> RequestBuilder {
    let body = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(fields)
        .finish();
    node.http
        .post(format!("{}{path}", node.url))
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body(body)
}

/// The value of a hidden field.
fn field<'a>(page: &'a str, name: &str) -> &'a str {
    let mark = format!("name=\"{name}\" value=\"");
    let from = page
        .find(&mark)
        .unwrap_or_else(|| panic!("no field {name}"))
        + mark.len();
    page[from..].split('"').next().unwrap()
}

#[tokio::test]
async fn without_a_session_there_is_only_the_login() {
    let node = Node::start().await;
    for path in [
        "/",
        "/console/fragment",
        "/console/events",
        "/console/mailboxes",
        "/console/groups/primary/failback",
    ] {
        let response = node
            .http
            .get(format!("{}{path}", node.url))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::SEE_OTHER, "{path}");
        assert_eq!(response.headers()["location"], "/login", "{path}");
    }
    let wrong = post(&node, "/login", &[("token", "guess")])
        .send()
        .await
        .unwrap();
    assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
    assert!(!wrong.headers().contains_key("set-cookie"));
    // Nobody is led away from this node by a crafted link.
    let away = [("token", ADMIN), ("next", "//evil.example/")];
    let response = post(&node, "/login", &away).send().await.unwrap();
    assert_eq!(response.headers()["location"], "/");
}

/// R-AL-3.
#[tokio::test]
async fn the_overview_says_who_serves_and_needs_no_script() {
    let node = Node::start().await;
    let browser = Browser::sign_in(&node, READ).await;
    let page = browser.page("/").await;
    assert!(page.contains("vmpro1 serves voicemail. vmpro2 stands by."));
    assert!(page.contains("dark green: up, it backs me up"));
    assert!(!page.contains("<style") && !page.contains("style=\"") && !page.contains("onclick"));
    assert!(
        !page.contains("href=\"/console/groups"),
        "a read token gets no buttons"
    );
    let fragment = browser.page("/console/fragment").await;
    assert!(fragment.contains("data-part=\"banner\"") && !fragment.contains("<html"));
}

/// What a reader sees of the part of `page` that begins with `mark` and ends with `end`.
fn seen(page: &str, mark: &str, end: &str) -> String {
    let from = page.find(mark).unwrap_or_else(|| panic!("no {mark}"));
    let part = page[from..].split(end).next().unwrap();
    let (mut text, mut inside) = (String::new(), true);
    for c in part.chars() {
        match c {
            '<' => {
                inside = true;
                text.push(' ');
            }
            '>' => inside = false,
            _ if inside => {}
            c => text.push(c),
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// R-AL-3: both servers, who is active, since when and why, synchronisation, calls, mailbox totals,
/// and of the two buttons the one that fits.
#[tokio::test]
async fn the_overview_shows_both_servers_and_what_may_be_done() {
    let node = Node::start().await;
    node.status(|s| {
        s.calls = 2;
        s.totals.messages = 8;
        s.peer.calls = Some(1);
    });
    let browser = Browser::sign_in(&node, ADMIN).await;
    let page = browser.page("/").await;
    let card =
        |page: &str, id: &str| seen(page, &format!("aria-label=\"Node {id}\""), "</article>");
    let primary = card(&page, "vmpro1");
    let shown = "vmpro1 serves vmpro1.example.com Calls 2 Mailboxes 3 Messages 8";
    assert!(primary.contains(shown), "{primary}");
    let secondary = card(&page, "vmpro2");
    let shown = "vmpro2 stands by vmpro2.example.com Calls 1 Mailboxes 3 Messages 7";
    assert!(secondary.contains(shown), "{secondary}");
    let sync = seen(&page, "<h3>Synchronisation", "<article");
    assert!(
        sync.contains("finished") && sync.contains("syncing 2 changes, 4.0 KiB left"),
        "{sync}"
    );

    let group = |page: &str| seen(page, "aria-label=\"Group primary\"", "</section>");
    let normal = group(&page);
    let shown = "Served by vmpro1 Since 22 Nov 2026, 08:00:02 UTC Phase normal";
    assert!(
        normal.contains(shown) && normal.contains("Why normal operation"),
        "{normal}"
    );
    let (activate, failback) = (
        "href=\"/console/groups/primary/activate-backup\"",
        "href=\"/console/groups/primary/failback\"",
    );
    assert!(page.contains(activate) && !page.contains(failback));

    node.status(|s| {
        let group = &mut s.groups[0];
        group.owner = "vmpro2".to_owned();
        group.phase = "resilience".to_owned();
        group.since = "2026-11-22T09:30:00Z".to_owned();
        group.reason = "vmpro1 was invisible for 3m".to_owned();
        group.failback.waiting_for = vec!["vmpro1 to be visible again".to_owned()];
    });
    let page = browser.page("/").await;
    let away = group(&page);
    for shown in [
        "Served by vmpro2 for vmpro1 Since 22 Nov 2026, 09:30:00 UTC",
        "Why vmpro1 was invisible for 3m",
        "Failback waits for vmpro1 to be visible again",
    ] {
        assert!(away.contains(shown), "{away}");
    }
    assert!(!page.contains(activate) && page.contains(failback));
}

#[tokio::test]
async fn a_button_asks_first_and_acts_on_what_it_showed() {
    let node = Node::start().await;
    let browser = Browser::sign_in(&node, ADMIN).await;
    let path = "/console/groups/primary/activate-backup";
    assert!(browser.page("/").await.contains(path));
    let page = browser.page(path).await;
    assert!(
        node.asked.lock().unwrap()[0].dry_run,
        "the page shows what the loop would do"
    );
    assert_eq!(field(&page, "expected_owner"), "vmpro1");
    let form_token = field(&page, "form_token").to_owned();

    let forged = [("form_token", "x"), ("expected_owner", "vmpro1")];
    assert_eq!(
        browser.submit(path, &forged).await.status(),
        StatusCode::FORBIDDEN
    );
    let form = [
        ("form_token", form_token.as_str()),
        ("expected_owner", "vmpro1"),
        ("reason", "drill"),
    ];
    let done = browser.submit(path, &form).await;
    assert_eq!(done.status(), StatusCode::SEE_OTHER);
    {
        let asked = node.asked.lock().unwrap();
        assert_eq!(asked.len(), 2, "the forged form reached the loop");
        assert_eq!(asked[1].expected_owner.as_deref(), Some("vmpro1"));
        assert_eq!(asked[1].reason.as_deref(), Some("drill"));
        assert!(!asked[1].dry_run);
    }
    assert!(
        browser.page("/").await.contains("vmpro2 takes over"),
        "the outcome is shown"
    );

    node.status(|s| s.groups[0].owner = "vmpro2".to_owned());
    let stale = browser.submit(path, &form).await;
    assert_eq!(stale.status(), StatusCode::CONFLICT);
    assert!(
        stale
            .text()
            .await
            .unwrap()
            .contains("vmpro2 owns the group now")
    );
}

#[tokio::test]
async fn a_read_session_can_not_act() {
    let node = Node::start().await;
    let browser = Browser::sign_in(&node, READ).await;
    let path = "/console/groups/primary/failback";
    let page = browser.page(path).await;
    let form = [
        ("form_token", field(&page, "form_token")),
        ("expected_owner", "vmpro1"),
    ];
    assert_eq!(
        browser.submit(path, &form).await.status(),
        StatusCode::FORBIDDEN
    );
    assert!(node.asked.lock().unwrap().iter().all(|g| g.dry_run));
}

#[tokio::test]
async fn alarms_are_acknowledged_and_signing_out_ends_the_session() {
    let node = Node::start().await;
    node.app
        .alarms
        .raise("bad_signature", "10.0.0.9", "<b>check</b> the key file");
    let browser = Browser::sign_in(&node, ADMIN).await;
    let page = browser.page("/").await;
    assert!(page.contains("&lt;b&gt;check"), "outside text is escaped");
    let form = [("form_token", field(&page, "form_token"))];
    let id = node.app.alarms.list()[0].id;
    let acked = browser
        .submit(&format!("/console/alarms/{id}/ack"), &form)
        .await;
    assert_eq!(acked.status(), StatusCode::SEE_OTHER);
    assert!(node.app.alarms.list()[0].acknowledged.is_some());
    browser.submit("/logout", &form).await;
    assert_eq!(browser.open("/").await.status(), StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn mailboxes_and_messages_can_be_looked_at_and_heard() {
    let node = Node::start().await;
    node.mailbox("2001");
    let audio = wav(900, 2);
    let path = "/api/v1/mailboxes/2001/messages?caller_name=%3Cscript%3E";
    node.deposit(path, audio.clone()).await;
    let browser = Browser::sign_in(&node, READ).await;
    assert!(
        browser
            .page("/console/mailboxes")
            .await
            .contains("/console/mailboxes/2001")
    );
    let page = browser.page("/console/mailboxes/2001").await;
    assert!(page.contains("&lt;script&gt;"));
    let from = page
        .find("src=\"/console/mailboxes/2001/messages/")
        .unwrap()
        + 5;
    let source = page[from..].split('"').next().unwrap();
    assert_eq!(browser.open(source).await.bytes().await.unwrap(), audio);
    assert_eq!(
        browser.open("/console/mailboxes/2999").await.status(),
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn the_api_page_is_made_from_the_document() {
    let node = Node::start().await;
    let closed = node
        .http
        .get(format!("{}/api/docs", node.url))
        .send()
        .await
        .unwrap();
    assert_eq!(closed.headers()["location"], "/login?next=/api/docs");
    let page = node.get("/api/docs").await.text().await.unwrap();
    let document = node.json("/api/v1/openapi.json").await;
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 20);
    for path in paths.keys() {
        assert!(page.contains(path.as_str()), "{path} is not on the page");
    }
    assert!(
        !page.contains("http://cdn") && !page.contains("https://"),
        "something comes from elsewhere"
    );
}

/// R-VR-2.
#[tokio::test]
async fn the_buttons_of_recordings_are_for_admins_with_the_sessions_own_form() {
    let node = Node::start().await;
    for path in ["/console/recordings/transfer", "/console/recordings/test"] {
        let reader = Browser::sign_in(&node, READ).await;
        let page = reader.page("/").await;
        let token = [("form_token", field(&page, "form_token"))];
        assert_eq!(
            reader.submit(path, &token).await.status(),
            StatusCode::FORBIDDEN
        );
        let admin = Browser::sign_in(&node, ADMIN).await;
        let page = admin.page("/").await;
        let forged = admin.submit(path, &[("form_token", "guess")]).await;
        assert_eq!(forged.status(), StatusCode::FORBIDDEN);
        // This node has nobody to move recordings to.
        let token = [("form_token", field(&page, "form_token"))];
        assert_eq!(
            admin.submit(path, &token).await.status(),
            StatusCode::CONFLICT
        );
    }
}
