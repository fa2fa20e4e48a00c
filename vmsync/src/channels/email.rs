//! Alarms by e-mail, through the further entries of `[[smtp.sender]]` (R-SY-2).

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;
use vmsync_config::{Config, alarms::EmailChannel};
use vmsync_core::{
    alarm::{AlarmMail, Item, What, write_mail},
    delivery::{self, Stage},
};

use super::carrier::{Failure, Told};
use crate::{
    delivery::Trust,
    smtp::{
        Timeouts,
        submission::{Login, Submission},
    },
};

/// See the module's head.
pub(super) struct Driver {
    node: String,
    fqdn: String,
    to: Vec<Recipient>,
    /// By place of the entry.
    servers: BTreeMap<usize, Submission>,
    under_way: UnderWay,
}

/// The notice that is being told, and who has it, or has refused it for good.
#[derive(Default)]
struct UnderWay {
    id: Option<Uuid>,
    took: BTreeSet<String>,
    refused: BTreeMap<String, String>,
    /// One of them refuses the mail itself, and not only the address.
    mail: bool,
}

struct Recipient {
    address: String,
    from: String,
    place: usize,
}

impl Driver {
    pub(super) fn new(channel: &EmailChannel, config: &Config) -> Result<Self, String> {
        let ca = config.tls.files.as_ref().map(|files| files.ca.as_path());
        let trust = Trust::load(ca).map_err(|e| e.to_string())?;
        let mut servers = BTreeMap::new();
        let mut to = Vec::new();
        for address in &channel.to {
            let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
            let (place, entry) = config
                .sender_for(domain)
                .ok_or_else(|| format!("no [[smtp.sender]] entry carries mail for {domain}"))?;
            let blank = || format!("vmsync@{}", config.node.fqdn);
            let from = channel.from.clone().or_else(|| entry.sender.clone());
            to.push(Recipient {
                address: address.clone(),
                from: from.unwrap_or_else(blank),
                place,
            });
            servers.entry(place).or_insert_with(|| {
                Submission::new(
                    entry.server.clone(),
                    entry.port,
                    trust.of(entry),
                    entry.auth.as_ref().map(|auth| Login {
                        user: auth.user.clone(),
                        password_file: auth.password_file.clone(),
                    }),
                    config.node.fqdn.as_str(),
                    Timeouts::default(),
                )
            });
        }
        Ok(Self {
            node: config.node.id.to_string(),
            fqdn: config.node.fqdn.to_string(),
            to,
            servers,
            under_way: UnderWay::default(),
        })
    }

    /// One mail for each address. One that refuses it for good does not hold it from the others: it counts as told
    /// once every address has it or has refused it, and at least one has it.
    pub(super) async fn send(&mut self, item: &Item, more: bool) -> Result<Told, Failure> {
        // A test goes beside what is under way: who has that must not get it again.
        let beside = matches!(item.notice.what, What::Test(_));
        let kept = beside.then(|| std::mem::take(&mut self.under_way));
        let sent = self.tell_all(item, more).await;
        if let Some(kept) = kept {
            self.under_way = kept;
        }
        sent
    }

    async fn tell_all(&mut self, item: &Item, more: bool) -> Result<Told, Failure> {
        if self.under_way.id != Some(item.notice.id) {
            self.under_way = UnderWay {
                id: Some(item.notice.id),
                ..UnderWay::default()
            };
        }
        let now = &mut self.under_way;
        let mut errors = Vec::new();
        for to in &self.to {
            if now.took.contains(&to.address) || now.refused.contains_key(&to.address) {
                continue;
            }
            let mail = write_mail(&AlarmMail {
                item,
                node: &self.node,
                fqdn: &self.fqdn,
                from: &to.from,
                to: &to.address,
            });
            let mail = match mail {
                Ok(Some(mail)) => mail,
                Ok(None) => return Ok(Told::default()),
                Err(e) => return Err(Failure::new(e.to_string())),
            };
            let Some(server) = self.servers.get_mut(&to.place) else {
                continue;
            };
            match server.send(&to.from, &to.address, &mail).await {
                Ok(()) => drop(now.took.insert(to.address.clone())),
                Err(failure) => {
                    let why = format!("{}: {}", to.address, failure.why);
                    let refused = failure.code.is_some_and(|code| (500..600).contains(&code));
                    if refused && !failure.setup {
                        now.refused.insert(to.address.clone(), why.clone());
                        now.mail |= refuses_the_mail(&failure);
                    }
                    errors.push(why);
                }
            }
        }
        let all = now.took.len() + now.refused.len() >= self.to.len();
        if !more || !all {
            // A server would only close the connection meanwhile.
            for server in self.servers.values_mut() {
                server.close().await;
            }
        }
        if !all {
            return Err(Failure::new(errors.join("; ")));
        }
        let done = std::mem::take(&mut self.under_way);
        if done.took.is_empty() {
            // Nobody has it: tried again from the beginning, for ever where it is the addresses that are wrong.
            let errors: Vec<_> = done.refused.into_values().collect();
            return Err(Failure {
                refused: done.mail,
                ..Failure::new(errors.join("; "))
            });
        }
        Ok(Told {
            took: done.took.into_iter().collect(),
            refused: done.refused.into_iter().collect(),
        })
    }
}

/// Whether it is this mail that is refused for good, by its contents or its size (552, also at MAIL): another notice may be
/// taken. A sender or recipient that is refused holds them all until somebody corrects it.
fn refuses_the_mail(failure: &delivery::Failure) -> bool {
    match failure.code {
        Some(552) => true,
        Some(code) => (500..600).contains(&code) && failure.stage == Stage::Content,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_filter_refuses_the_mail_and_an_unknown_user_the_address() {
        let refused = |stage, code| {
            refuses_the_mail(&delivery::Failure {
                stage,
                code,
                unsendable: false,
                setup: false,
                why: String::new(),
            })
        };
        assert!(refused(Stage::Content, Some(554)));
        assert!(refused(Stage::Sender, Some(552)), "larger than it takes");
        assert!(!refused(Stage::Recipient, Some(550)), "no such user");
        assert!(!refused(Stage::Sender, Some(550)), "no such sender");
        assert!(!refused(Stage::Content, Some(451)), "passes");
        assert!(!refused(Stage::Content, None), "no answer");
    }
}
