//! Mails as the nodes write and read them, over connections that break.

use std::{sync::Arc, time::Duration};

use vmsync::exchange::{self, Content, Letterhead};
use vmsync_core::{
    sync::{BATCH, Blame, Kind, Plan, Ticket},
    wire::{self, Addresses, NODE_MAILBOX, Transfer},
};

use super::{
    Sabotage,
    link::Fate,
    node::Slip,
    world::{Bytes, Event, World, id},
};

/// The sender waits this long for an answer.
const GIVES_UP: Duration = Duration::from_secs(3);

/// Who waits for a mail's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waiting {
    node: usize,
    boot: u64,
    connection: u64,
    ticket: Ticket,
}

/// A mail under way.
#[derive(Debug, Clone)]
pub(super) struct Mail {
    bytes: Bytes,
    /// `None` for one that comes late, or twice.
    waiting: Option<Waiting>,
    /// Refused whatever is in it.
    refused: Option<u16>,
    /// The connection ends before its answer.
    unanswered: bool,
}

/// An answer under way.
#[derive(Debug)]
pub(super) struct Reply {
    waiting: Waiting,
    code: u16,
    text: String,
}

impl Reply {
    /// The node that waits for it.
    pub(super) fn to(&self) -> usize {
        self.waiting.node
    }
}

impl World {
    /// Puts the mail of `plan` together and hands it to the link.
    pub(super) fn post(&mut self, n: usize, plan: &Plan) -> Result<(), String> {
        let (asked, mut plan) = (plan, plan.clone());
        // Smaller mails than the nodes', so that several are needed.
        match &mut plan.kind {
            Kind::Operations { most, .. } => *most = (*most).min(1 + self.rng.below(12)),
            Kind::Seed { most, .. } => *most = (*most).min(self.step),
            _ => {}
        }
        let ticket = plan.ticket;
        let Some((bytes, released)) = self.letter(n, &plan)? else {
            return Ok(());
        };
        self.count("mails");
        self.count(match &asked.kind {
            Kind::Hello => "hellos",
            Kind::Operations { skip: Some(_), .. } => "skips mailed",
            Kind::Operations { most, .. } if *most < BATCH => "mails narrowed",
            Kind::Operations { .. } => "mails of operations",
            Kind::Seed { skip: Some(_), .. } => "steps past a record",
            Kind::Seed { .. } => "steps of seedings",
            Kind::Items { .. } => "mails of items",
            Kind::Records { release: true, .. } if released.is_empty() => "releases put off",
            Kind::Records { release: true, .. } => "releases mailed",
            Kind::Records { .. } => "mails of records",
            Kind::Status => "statuses",
        });
        let boot = self.nodes[n].boot;
        let Some(live) = &mut self.nodes[n].live else {
            return Ok(());
        };
        live.way.outstanding.push_back(Slip { ticket, released });
        let under_way = live.way.outstanding.len();
        let waiting = Waiting {
            node: n,
            boot,
            connection: live.way.connection,
            ticket,
        };
        if under_way > 1 {
            self.count("mails behind another");
        }
        self.send(waiting, bytes);
        Ok(())
    }

    /// Reads, packs, signs, as the packer of a node does. `None` where that failed, or the node with it.
    fn letter(&mut self, n: usize, plan: &Plan) -> Result<Option<(Bytes, Vec<String>)>, String> {
        let mail_id = id(&mut self.rng);
        let (me, peer) = (&self.nodes[n].id, &self.nodes[1 - n].id);
        let address = |id| format!("{NODE_MAILBOX}@{id}.example.com");
        let addresses = Addresses {
            from: address(me),
            to: address(peer),
        };
        let to = peer.clone();
        let keys = self.keys.clone();
        let letter = self.at(n, |live, now| {
            let content = match Content::gather(&live.store, plan) {
                Ok(content) => content,
                Err(error) => {
                    let why = format!("at this node: {error}");
                    let blame = exchange::blame_unread(&plan.kind);
                    live.session.failed(plan.ticket, now, blame, &why);
                    return Ok(None);
                }
            };
            live.session
                .packed(plan.ticket, content.load().clone(), now.mono);
            let released = content.released().to_vec();
            let letterhead = Letterhead {
                id: mail_id,
                to,
                sent_at: now.wall,
                addresses: &addresses,
                transfer: Transfer::Binary,
            };
            match content.encode(plan, letterhead, &keys) {
                Ok(bytes) => Ok(Some((Arc::from(bytes), released))),
                Err(error) => {
                    let why = format!("at this node: {error}");
                    live.session.failed(plan.ticket, now, Blame::Content, &why);
                    Ok(None)
                }
            }
        })?;
        Ok(letter.flatten())
    }

    fn send(&mut self, waiting: Waiting, bytes: Bytes) {
        let n = waiting.node;
        let broken = self.nodes[n].live.as_ref().is_none_or(|l| l.way.broken);
        if broken {
            return;
        }
        let mail = Mail {
            bytes,
            waiting: Some(waiting),
            refused: None,
            unanswered: false,
        };
        let again = Mail {
            waiting: None,
            ..mail.clone()
        };
        let fate = self.link.fate(&mut self.rng);
        match fate {
            _ if !self.cuts.mails_go(n) => self.breaks(waiting, GIVES_UP),
            Fate::Arrives(delay) => self.arrives(n, delay, mail),
            Fate::Cut(delay) => {
                self.count("mails cut inside DATA");
                self.breaks(waiting, delay);
            }
            Fate::Unanswered(delay) => {
                self.count("mails unanswered");
                let mail = Mail {
                    unanswered: true,
                    ..mail
                };
                self.arrives(n, delay, mail);
                self.lost_from_here(n);
            }
            Fate::Twice(delay, later) => {
                self.count("mails twice");
                self.arrives(n, delay, mail);
                self.schedule(delay + later, Event::Mail(1 - n, Box::new(again)));
            }
            Fate::Late(delay) => {
                self.count("mails late");
                self.schedule(delay, Event::Mail(1 - n, Box::new(again)));
                self.breaks(waiting, GIVES_UP);
            }
            Fate::Refused(delay, code) => {
                self.count(if code < 500 {
                    "mails put off"
                } else {
                    "mails refused"
                });
                let refused = Some(code);
                self.arrives(n, delay, Mail { refused, ..mail });
            }
        }
    }

    /// Mails over one connection arrive in order.
    fn arrives(&mut self, n: usize, delay: Duration, mail: Mail) {
        let now = self.now;
        if let Some(live) = &mut self.nodes[n].live {
            let at = (now + delay).max(live.way.arrives + Duration::from_micros(10));
            live.way.arrives = at;
            self.schedule(at.saturating_sub(now), Event::Mail(1 - n, Box::new(mail)));
        }
    }

    fn lost_from_here(&mut self, n: usize) {
        if let Some(live) = &mut self.nodes[n].live {
            live.way.broken = true;
        }
    }

    /// The connection breaks; the sender finds out after this long.
    fn breaks(&mut self, waiting: Waiting, after: Duration) {
        let Waiting {
            node,
            boot,
            connection,
            ..
        } = waiting;
        if self.nodes[node].boot == boot
            && let Some(live) = &mut self.nodes[node].live
            && live.way.connection == connection
        {
            live.way.broken = true;
            self.schedule(after, Event::Broken(node, boot, connection));
        }
    }

    /// The receiver of `n`'s mails went down: its connections are reset.
    pub(super) fn reset_connections_to(&mut self, n: usize) {
        let node = 1 - n;
        let boot = self.nodes[node].boot;
        let after = self.rng.millis(1, 3_000);
        if let Some(live) = &mut self.nodes[node].live {
            let connection = live.way.connection;
            live.way.broken = true;
            self.schedule(after, Event::Broken(node, boot, connection));
        }
    }

    pub(super) fn broken(&mut self, n: usize, boot: u64, connection: u64) {
        let now = self.clock(n);
        if self.nodes[n].boot == boot
            && let Some(live) = &mut self.nodes[n].live
            && live.way.connection == connection
        {
            live.disconnect(now, "the connection ended before the answer");
        }
    }

    /// A mail has come to `n`: taken as its mailroom takes it, and then answered.
    pub(super) fn receive(&mut self, n: usize, mail: &Mail) -> Result<(), String> {
        if self.nodes[n].live.is_none() || self.cuts.packets[1 - n] {
            if let Some(waiting) = mail.waiting {
                let after = if self.cuts.packets[1 - n] {
                    GIVES_UP
                } else {
                    self.rng.millis(1, 5)
                };
                self.breaks(waiting, after);
            }
            return Ok(());
        }
        let (code, text) = match mail.refused {
            Some(code) => (code, "refused on the way".to_owned()),
            None => self.take(n, &mail.bytes)?,
        };
        let Some(waiting) = mail.waiting else {
            return Ok(());
        };
        if self.nodes[n].live.is_none() {
            self.breaks(waiting, Duration::from_millis(1));
        } else if self.cuts.packets[n] {
            self.breaks(waiting, GIVES_UP);
        } else if mail.unanswered {
            let after = self.rng.millis(1, 3_000);
            self.breaks(waiting, after);
        } else {
            // Answers over one connection come in order.
            let at = self.now + self.rng.millis(1, 5);
            let at = at.max(self.answered[waiting.node] + Duration::from_micros(10));
            self.answered[waiting.node] = at;
            let reply = Reply {
                waiting,
                code,
                text,
            };
            self.schedule(at.saturating_sub(self.now), Event::Reply(reply));
        }
        Ok(())
    }

    fn take(&mut self, n: usize, bytes: &Bytes) -> Result<(u16, String), String> {
        let me = self.nodes[n].id.clone();
        let mail = match wire::decode(&bytes::Bytes::copy_from_slice(bytes), &self.keys, &me) {
            Ok(mail) => self.sabotaged(mail),
            Err(error) => return Err(format!("node {n} can't read what its peer wrote: {error}")),
        };
        let refuser = self.refusers[n].filter(|r| self.now < r.until);
        if let Some(entity) = refuser.and_then(|r| r.refuses(&mail)) {
            self.count("mails refused for what is in them");
            self.note(&format!(
                "node {n} answers 554: it takes nothing of {entity}"
            ));
            return Ok((554, format!("nothing of {entity} is taken here")));
        }
        let taken = self.at(n, |live, now| {
            Ok(match exchange::apply(&live.store, &mail) {
                Ok(applied) => {
                    live.hear(&mail.head, applied, now);
                    (250, String::new())
                }
                Err(error) => {
                    let refusal = exchange::refusal(&error);
                    (refusal.code(), error.to_string())
                }
            })
        })?;
        let (code, text) = taken.unwrap_or((421, "it is gone".to_owned()));
        if code == 250 {
            self.judge.took_mail(n, self.now);
            self.look_for_mended(n);
        }
        if code != 250 && self.nodes[n].live.is_some() {
            self.count("mails not taken");
            self.note(&format!("node {n} answers {code}: {text}"));
        }
        Ok((code, text))
    }

    /// What a receiver makes of a mail that keeps no promise.
    fn sabotaged(&self, mut mail: wire::Mail) -> wire::Mail {
        match self.sabotage {
            Some(Sabotage::ForgetDeletions) => {
                for operation in &mut mail.operations {
                    let mut value = operation.value();
                    if value["effect"] == "delete" {
                        value["effect"] = serde_json::json!({"set": {}});
                        *operation = value.into();
                    }
                }
            }
            Some(Sabotage::TakeNothing) => mail.operations.clear(),
            _ => {}
        }
        mail
    }

    /// The answer to the oldest mail under way.
    pub(super) fn reply(&mut self, reply: Reply) -> Result<(), String> {
        let Reply {
            waiting,
            mut code,
            text,
        } = reply;
        let n = waiting.node;
        let boot = self.nodes[n].boot;
        if self.sabotage == Some(Sabotage::BelieveRefusals) {
            code = 250;
        }
        let answered = self.at(n, |live, now| {
            let mine = boot == waiting.boot && live.way.connection == waiting.connection;
            let oldest = live.way.outstanding.front().map(|s| s.ticket);
            if !mine || oldest != Some(waiting.ticket) {
                return Ok(());
            }
            let Some(slip) = live.way.outstanding.pop_front() else {
                return Ok(());
            };
            if code == 250 {
                live.session.sent(slip.ticket, now);
                return live.released(&slip.released, now);
            }
            let blame = exchange::blame(code);
            let why = format!("{code} {text}");
            live.session.failed(slip.ticket, now, blame, &why);
            Ok(())
        });
        answered.map(drop)
    }
}
