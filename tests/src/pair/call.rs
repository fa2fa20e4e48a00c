//! A voicemail call as a PBX runs it: started, answered step by step, recorded, hung up.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Answer, Node};

/// A call that goes on, on the node that has it.
pub struct OpenCall<'n> {
    node: &'n Node,
    /// Its id.
    pub id: String,
    /// Extension of the mailbox it is for.
    pub mailbox: String,
    /// Caller's number.
    pub caller: String,
    step: Value,
}

impl<'n> OpenCall<'n> {
    /// Somebody calls to leave a message; `node` must take the call.
    pub async fn to_leave(node: &'n Node, mailbox: &str, caller: &str) -> Self {
        let call = json!({"kind": "leave", "mailbox": mailbox, "caller_number": caller});
        let step = node.post("/api/v1/calls", &call).await.must_be(201).json();
        Self {
            node,
            id: step["id"].as_str().unwrap_or_default().to_owned(),
            mailbox: mailbox.to_owned(),
            caller: caller.to_owned(),
            step,
        }
    }

    /// Whether `node` has it.
    pub fn is_at(&self, node: &Node) -> bool {
        self.node.id == node.id
    }

    /// Goes through the greeting, up to the beep.
    pub async fn up_to_the_beep(&mut self) {
        while self.step["waiting_for"] != "recording" {
            let event = match self.step["waiting_for"].as_str() {
                Some("played") => json!({"event": "played"}),
                Some("digits") => json!({"event": "timeout"}),
                _ => panic!("the call flow never records: {}", self.step),
            };
            let path = format!("/api/v1/calls/{}/events", self.id);
            self.step = self.node.post(&path, &event).await.must_be(200).json();
        }
    }

    /// Hands in what the caller said, which must be kept; gives the message's id.
    pub async fn says(&mut self, wav: &[u8]) -> String {
        let path = format!("/api/v1/calls/{}/recording", self.id);
        let request = self.node.request(Method::POST, &path).wav(wav);
        let kept = request.send().await.must_be(201).json();
        let id = kept["message"].as_str().unwrap_or_default().to_owned();
        self.step = kept;
        id
    }

    /// The caller hangs up.
    pub async fn ends(self) -> Answer {
        let path = format!("/api/v1/calls/{}", self.id);
        self.node.delete(&path).await
    }

    /// Whether its node still knows of it; not after a restart.
    pub async fn goes_on(&self) -> bool {
        let path = format!("/api/v1/calls/{}", self.id);
        self.node.try_get(&path).await.is_ok()
    }
}
