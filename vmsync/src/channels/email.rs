//! Alarms by e-mail, through the further entries of `[[smtp.sender]]` (R-SY-2).

use std::collections::{BTreeMap, BTreeSet};

use vmsync_config::{Config, alarms::EmailChannel};
use vmsync_core::alarm::{AlarmMail, Item, write_mail};

use super::carrier::Failure;
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
    /// The notice under way, and who has it, or has refused it for good.
    under_way: u64,
    done: BTreeSet<String>,
    taken: bool,
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
            under_way: u64::MAX,
            done: BTreeSet::new(),
            taken: false,
        })
    }

    /// One mail for each address. One that refuses it for good does not hold it from the others: it counts as told
    /// once every address has it or has refused it, and at least one has it.
    pub(super) async fn send(&mut self, item: &Item) -> Result<(), Failure> {
        if self.under_way != item.number || item.number == 0 {
            self.under_way = item.number;
            self.done.clear();
            self.taken = false;
        }
        let mut errors = Vec::new();
        for to in &self.to {
            if self.done.contains(&to.address) {
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
                Ok(None) => return Ok(()),
                Err(e) => return Err(Failure::new(e.to_string())),
            };
            let Some(server) = self.servers.get_mut(&to.place) else {
                continue;
            };
            let sent = server.send(&to.from, &to.address, &mail).await;
            // Alarms are rare; a server would only close the connection meanwhile.
            server.close().await;
            match sent {
                Ok(()) => {
                    self.taken = true;
                    self.done.insert(to.address.clone());
                }
                Err(failure) => {
                    let refused = failure.code.is_some_and(|code| (500..600).contains(&code));
                    if refused && !failure.setup {
                        self.done.insert(to.address.clone());
                    }
                    errors.push(format!("{}: {}", to.address, failure.why));
                }
            }
        }
        if self.taken && self.done.len() >= self.to.len() {
            for error in errors {
                tracing::warn!("an alarm was not taken for one address: {error}");
            }
            return Ok(());
        }
        if self.done.len() >= self.to.len() {
            // Nobody has it: tried again from the beginning.
            self.under_way = u64::MAX;
        }
        Err(Failure::new(errors.join("; ")))
    }
}
