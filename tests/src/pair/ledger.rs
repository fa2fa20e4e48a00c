//! Every message a node has taken, kept by the test: what must be on both nodes in the end.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use reqwest::Method;
use serde_json::Value;

use super::{Node, OpenCall, Pair, wav};

/// Callers are numbered from here, one a message.
const FIRST_CALLER: u32 = 700_000;

/// See the module's head.
#[derive(Default)]
pub struct Ledger {
    kept: Mutex<Vec<Kept>>,
    callers: AtomicU32,
    /// Of [`Self::kept`], those whose audio was compared on both nodes.
    compared: Mutex<usize>,
}

#[derive(Clone)]
struct Kept {
    mailbox: String,
    id: String,
    caller: String,
    wav: Vec<u8>,
}

impl Ledger {
    /// A number that no other caller of this ledger has.
    pub fn caller(&self) -> String {
        let number = self.callers.fetch_add(1, Ordering::Relaxed);
        (FIRST_CALLER + number).to_string()
    }

    /// Messages acknowledged so far.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Leaves a message of a second at `node`, which must take it.
    pub async fn leave(&self, node: &Node, mailbox: &str) {
        let (caller, wav) = (self.caller(), self.voice());
        let id = node.leave(mailbox, &caller, &wav).await;
        self.note(mailbox, &id, &caller, wav);
    }

    /// The caller of `call` speaks; the message must be kept.
    pub async fn record(&self, call: &mut OpenCall<'_>) {
        let wav = self.voice();
        let id = call.says(&wav).await;
        self.note(&call.mailbox, &id, &call.caller, wav);
    }

    /// Waits until the message left last can be heard at `node`.
    pub async fn last_is_heard_at(&self, node: &Node) {
        let last = self.lock().last().cloned();
        let Some(Kept {
            mailbox, id, wav, ..
        }) = last
        else {
            panic!("nothing was left yet")
        };
        node.hears(&mailbox, &id, &wav).await;
    }

    /// Each message acknowledged is on both nodes, once, and sounds as it did; and there is no other.
    /// To be asked when the nodes are in step.
    pub async fn is_on_both(&self, pair: &Pair) {
        let kept = self.lock().clone();
        let mailboxes: BTreeSet<_> = kept.iter().map(|k| k.mailbox.clone()).collect();
        for node in pair.nodes() {
            for mailbox in &mailboxes {
                let path = format!("/api/v1/mailboxes/{mailbox}/messages?limit=1000");
                let list = node.get(&path).await;
                let found = field(&list, "id");
                let of = || kept.iter().filter(|k| k.mailbox == *mailbox);
                let wanted: Vec<_> = of().map(|k| k.id.clone()).collect();
                assert_eq!(sorted(found), sorted(wanted), "{mailbox} at {}", node.id);
                let callers = of().map(|k| k.caller.clone()).collect();
                let found = field(&list, "caller_number");
                assert_eq!(sorted(found), sorted(callers), "{mailbox} at {}", node.id);
            }
            let new = *self.compared.lock().unwrap_or_else(|e| panic!("{e}"));
            for Kept {
                mailbox, id, wav, ..
            } in &kept[new..]
            {
                let path = format!("/api/v1/mailboxes/{mailbox}/messages/{id}/audio");
                let heard = node.request(Method::GET, &path).send().await.must_be(200);
                assert!(heard.body == *wav, "{id} sounds different at {}", node.id);
            }
        }
        *self.compared.lock().unwrap_or_else(|e| panic!("{e}")) = kept.len();
    }

    /// A second of sound that no other message has.
    fn voice(&self) -> Vec<u8> {
        let mut wav = wav(1);
        let number = u32::try_from(self.len()).unwrap_or(0).to_le_bytes();
        let tail = wav.len() - number.len();
        wav[tail..].copy_from_slice(&number);
        wav
    }

    fn note(&self, mailbox: &str, id: &str, caller: &str, wav: Vec<u8>) {
        self.lock().push(Kept {
            mailbox: mailbox.to_owned(),
            id: id.to_owned(),
            caller: caller.to_owned(),
            wav,
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(|e| panic!("{e}"))
    }
}

fn field(list: &Value, name: &str) -> Vec<String> {
    let items = list["items"].as_array().into_iter().flatten();
    items
        .map(|item| item[name].as_str().unwrap_or_default().to_owned())
        .collect()
}

fn sorted(mut words: Vec<String>) -> Vec<String> {
    words.sort();
    words
}
