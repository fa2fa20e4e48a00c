//! Every message a node has taken, kept by the test: what must be on both nodes in the end.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use reqwest::Method;
use serde_json::Value;
use tokio::{task::JoinSet, time::sleep};

use super::{Node, OpenCall, Pair, wav};

/// Callers are numbered from here, one a message.
const FIRST_CALLER: u32 = 700_000;

/// See the module's head.
#[derive(Default)]
pub struct Ledger {
    kept: Mutex<Vec<Kept>>,
    callers: AtomicU32,
    /// Callers whose question was never answered: their message may be there, or not.
    perhaps: Mutex<BTreeSet<String>>,
    /// Of [`Self::kept`], those whose audio was compared on both nodes.
    compared: Mutex<usize>,
}

/// Callers of [`Ledger::calls_come_in`].
pub struct Callers {
    calling: JoinSet<()>,
    over: Arc<AtomicBool>,
}

impl Callers {
    /// The one who speaks is let finish; nobody calls any more.
    pub async fn hang_up(mut self) {
        self.over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.calling.join_next().await {
            ended.unwrap_or_else(|e| panic!("{e}"));
        }
    }
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

    /// Leaves a message of a second at `node`, which must take it; gives its id.
    pub async fn leave(&self, node: &Node, mailbox: &str) -> String {
        let (caller, wav) = (self.caller(), self.voice());
        let id = node.leave(mailbox, &caller, &wav).await;
        self.note(mailbox, &id, &caller, wav);
        id
    }

    /// The caller of `call` speaks; the message must be kept.
    pub async fn record(&self, call: &mut OpenCall<'_>) {
        let wav = self.voice();
        let id = call.says(&wav).await;
        self.note(&call.mailbox, &id, &call.caller, wav);
    }

    /// Callers who leave a message wherever it is taken, until dropped: at `node`, else at `other`,
    /// else again. A question without an answer is not asked again.
    pub fn calls_come_in(self: &Arc<Self>, [node, other]: [&Node; 2], mailbox: &str) -> Callers {
        let (ledger, over) = (Arc::clone(self), Arc::new(AtomicBool::new(false)));
        let mut nodes = [node, other].map(Node::seen_by_another);
        let (mailbox, hung_up) = (mailbox.to_owned(), Arc::clone(&over));
        let mut calling = JoinSet::new();
        calling.spawn(async move {
            while !hung_up.load(Ordering::Relaxed) {
                if !ledger.tries(&nodes[0], &mailbox).await {
                    nodes.reverse();
                }
                sleep(Duration::from_millis(30)).await;
            }
        });
        Callers { calling, over }
    }

    async fn tries(&self, node: &Node, mailbox: &str) -> bool {
        let (caller, wav) = (self.caller(), self.voice());
        self.perhaps().insert(caller.clone());
        let answer = node.deposit(mailbox, &caller, &wav).attempt().await;
        let Ok(answer) = answer else { return false };
        assert!(
            [201, 307, 503].contains(&answer.status),
            "{}",
            answer.text()
        );
        self.perhaps().remove(&caller);
        if answer.status != 201 {
            return false;
        }
        let id = answer.json()["id"].as_str().unwrap_or_default().to_owned();
        self.note(mailbox, &id, &caller, wav);
        true
    }

    /// Waits until the message `id` can be heard at `node`.
    pub async fn is_heard(&self, id: &str, node: &Node) {
        let found = self.lock().iter().find(|kept| kept.id == id).cloned();
        let Some(Kept { mailbox, wav, .. }) = found else {
            panic!("{id} was not left")
        };
        node.hears(&mailbox, id, &wav).await;
    }

    /// Each message acknowledged is on both nodes, once, and sounds as it did; and there is no other
    /// but those whose acknowledgement was lost, once. To be asked when the nodes are in step.
    pub async fn is_on_both(&self, pair: &Pair) {
        let kept = self.lock().clone();
        let mailboxes: BTreeSet<_> = kept.iter().map(|k| k.mailbox.clone()).collect();
        let perhaps = self.perhaps().clone();
        let mut unanswered = Vec::new();
        for node in pair.nodes() {
            for mailbox in &mailboxes {
                let path = format!("/api/v1/mailboxes/{mailbox}/messages?limit=1000");
                let list = node.get(&path).await["items"].clone();
                let (unsure, known): (Vec<_>, Vec<_>) = list
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|item| ["id", "caller_number"].map(|f| text(item, f)))
                    .partition(|[_, caller]| perhaps.contains(caller));
                let of = kept.iter().filter(|k| k.mailbox == *mailbox);
                let wanted = of.map(|k| [k.id.clone(), k.caller.clone()]).collect();
                assert_eq!(sorted(known), sorted(wanted), "{mailbox} at {}", node.id);
                unanswered.push(sorted(unsure));
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
        let (here, there) = unanswered.split_at(mailboxes.len());
        assert_eq!(here, there, "of what was never acknowledged");
        for lost in here {
            let callers: BTreeSet<_> = lost.iter().map(|[_, caller]| caller).collect();
            assert_eq!(callers.len(), lost.len(), "twice: {lost:?}");
        }
    }

    /// A second of sound that no other message has.
    fn voice(&self) -> Vec<u8> {
        let mut wav = wav(1);
        let number = self.callers.load(Ordering::Relaxed).to_le_bytes();
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

    fn perhaps(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.perhaps.lock().unwrap_or_else(|e| panic!("{e}"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(|e| panic!("{e}"))
    }
}

fn text(item: &Value, name: &str) -> String {
    item[name].as_str().unwrap_or_default().to_owned()
}

fn sorted(mut messages: Vec<[String; 2]>) -> Vec<[String; 2]> {
    messages.sort();
    messages
}
