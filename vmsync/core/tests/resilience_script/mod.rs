//! Runs the resilience examples in `tests/data/resilience/*.txt` against the machine in virtual time.
//!
//! An example is a list of lines; `#` begins a comment. Time only moves forward, and on its way the
//! machine is asked again exactly at the deadlines it named, never in between: an example that
//! passes also shows that the deadlines are right.

use std::time::Duration;

use vmsync_config::{
    FailbackPolicy, Group, System, Trigger,
    words::{GroupName, NodeId, Now, SystemName, UnixMillis},
};
use vmsync_core::resilience::{
    Ask, Colour, Decision, Link, Machine, Maintenance, Ownership, PhoneEvidence, PhoneKind,
    Registration, Request, Rules, Verdict, View, colour,
};

const MINUTE: Duration = Duration::from_mins(1);

/// The pair of every example: `vmpro1` is home, `vmpro2` its backup, seen from the backup.
pub(crate) fn group() -> Group {
    Group {
        name: GroupName::new("primary").expect("a name"),
        home: NodeId::new("vmpro1").expect("an id"),
        backup: NodeId::new("vmpro2").expect("an id"),
    }
}

/// The defaults of the configuration, resilience turned on.
pub(crate) fn rules() -> Rules {
    Rules {
        backs_up_voicemail: true,
        trigger: Trigger::Phones,
        failover_after: 3 * MINUTE,
        policy: FailbackPolicy::Graceful,
        timeout: 60 * MINUTE,
        stable_for: Duration::ZERO,
        hold_off: 5 * MINUTE,
        maintenance: None,
    }
}

/// One example while it runs.
pub(crate) struct Script {
    machine: Machine,
    ownership: Ownership,
    view: View,
    rules: Rules,
    phones: PhoneEvidence,
    now: Duration,
    last: Decision,
    refused: Option<(&'static str, String)>,
    verdict: Option<Verdict>,
}

impl Script {
    /// Both nodes up, nothing has ever happened, synchronisation finished.
    pub(crate) fn new() -> Self {
        let systems: [System; 0] = [];
        let (group, rules) = (group(), rules());
        let mut view = View::new(group.backup.clone(), Duration::ZERO);
        view.peer = Ok(Duration::ZERO);
        view.speaks = true;
        view.sync_started = Some(Duration::ZERO);
        view.sync_finished = true;
        let ownership = Ownership::initial(&group, wall(Duration::ZERO).wall);
        let phones = PhoneEvidence::new(&group, &systems);
        let machine = Machine::new(group);
        let last = machine.decide(&ownership, &view, &rules, None, wall(Duration::ZERO));
        Self {
            machine,
            ownership,
            view,
            rules,
            phones,
            now: Duration::ZERO,
            last,
            refused: None,
            verdict: None,
        }
    }

    /// Runs all lines; the error names the line.
    pub(crate) fn run(text: &str) -> Result<(), String> {
        let mut script = Self::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            script
                .line(line)
                .map_err(|why| format!("line {}: {line}\n    {why}", number + 1))?;
        }
        Ok(())
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        let (verb, rest) = line.split_once(' ').ok_or("one word is no statement")?;
        match verb {
            "rule" => self.rule(rest),
            "at" => {
                let (at, event) = rest.split_once(' ').ok_or("at TIME EVENT")?;
                self.run_until(span(at)?)?;
                self.event(event)?;
                self.decide(None);
                Ok(())
            }
            "expect" => self.expect(rest),
            _ => Err("a line begins with rule, at or expect".to_owned()),
        }
    }

    fn rule(&mut self, rest: &str) -> Result<(), String> {
        let (name, value) = rest.split_once(' ').ok_or("rule NAME VALUE")?;
        match name {
            "resilience" => self.rules.backs_up_voicemail = value == "on",
            "trigger" => self.rules.trigger = word(value)?,
            "policy" => self.rules.policy = word(value)?,
            "failover_after" => self.rules.failover_after = span(value)?,
            "timeout" => self.rules.timeout = span(value)?,
            "stable_for" => self.rules.stable_for = span(value)?,
            "hold_off" => self.rules.hold_off = span(value)?,
            "witness" => self.view.witness = Some(value == "seen"),
            _ => return Err("no such rule".to_owned()),
        }
        Ok(())
    }

    /// Lets time pass, deciding at each deadline on the way.
    fn run_until(&mut self, at: Duration) -> Result<(), String> {
        if at < self.now {
            return Err("time only moves forward".to_owned());
        }
        while let Some(due) = self.last.deadline.filter(|due| *due <= at) {
            if due <= self.now {
                return Err(format!("a deadline at {due:?} has passed already"));
            }
            self.now = due;
            self.decide(None);
        }
        self.now = at;
        Ok(())
    }

    fn decide(&mut self, ask: Option<&Ask>) {
        self.view.desk_phones = self.phones.desk_phones();
        let now = wall(self.now);
        self.last = self
            .machine
            .decide(&self.ownership, &self.view, &self.rules, ask, now);
        if let Some(next) = self.last.ownership.clone() {
            self.ownership = next;
        }
    }

    fn event(&mut self, event: &str) -> Result<(), String> {
        let words: Vec<&str> = event.split_whitespace().collect();
        match words.as_slice() {
            ["nothing"] => {}
            ["home", "invisible"] => {
                self.view.peer = Err(self.now);
                self.view.speaks = false;
                self.view.sync_started = None;
                self.view.sync_finished = false;
            }
            ["home", "visible"] => {
                self.view.peer = Ok(self.now);
                self.view.speaks = true;
            }
            ["home", "greets"] => {
                self.view.peer = self.view.peer.or(Ok(self.now));
                self.view.speaks = false;
            }
            ["home", "speaks"] => self.view.speaks = true,
            ["witness", sight] => self.view.witness = Some(*sight == "seen"),
            ["maintenance", "ends"] => self.rules.maintenance = None,
            ["maintenance", "begins", rest @ ..] => self.maintenance(rest)?,
            ["sync", "starts"] => self.view.sync_started = Some(self.now),
            ["sync", "finishes"] => {
                self.view.sync_finished = true;
                self.view.pending_operations = 0;
            }
            ["operations", "left", n] => {
                self.view.pending_operations = n.parse().map_err(|_| "a number")?;
                self.view.sync_finished = false;
            }
            ["calls", n] => self.view.calls = n.parse().map_err(|_| "a number")?,
            ["phone", kind, "registers", place @ ..] => self.phone(kind, place)?,
            ["operator", what @ ..] => self.operator(what)?,
            ["policy", "becomes", policy] => self.rules.policy = word(policy)?,
            _ => return Err("no such event".to_owned()),
        }
        self.phones.sight(self.view.peer);
        Ok(())
    }

    fn phone(&mut self, kind: &str, place: &[&str]) -> Result<(), String> {
        let kind: PhoneKind = word(kind)?;
        let at = match place {
            [] => "vmpro2",
            ["at", system] => system,
            _ => return Err("registers [at SYSTEM]".to_owned()),
        };
        let system = |name: &str| SystemName::new(name).map_err(|e| e.to_string());
        let phone = Registration {
            extension: "2001".to_owned(),
            kind,
            home_system: system("vmpro1")?,
            at_system: system(at)?,
        };
        let after = self.rules.failover_after;
        let verdict = self
            .phones
            .registered(&phone, self.view.peer, after, self.now);
        self.verdict = Some(verdict);
        Ok(())
    }

    fn maintenance(&mut self, rest: &[&str]) -> Result<(), String> {
        let (until, words) = match rest {
            ["for", length, words @ ..] => (Some(self.now + span(length)?), words),
            words => (None, words),
        };
        self.rules.maintenance = Some(Maintenance {
            since: wall(self.now).wall,
            until: until.map(|at| wall(at).wall),
            reason: words.join(" "),
            by: group().backup,
        });
        Ok(())
    }

    fn operator(&mut self, what: &[&str]) -> Result<(), String> {
        let (request, rest) = match what {
            ["activates", "backup", rest @ ..] => (Request::ActivateBackup, rest),
            ["starts", "failback", rest @ ..] => (Request::Failback { force: false }, rest),
            ["forces", "failback", rest @ ..] => (Request::Failback { force: true }, rest),
            _ => return Err("activates backup, starts failback, forces failback".to_owned()),
        };
        let mut ask = Ask::from(request);
        match rest {
            [] => {}
            ["expecting", owner] => {
                ask.expected_owner = Some(NodeId::new(owner).map_err(|e| e.to_string())?);
            }
            ["saying", words @ ..] => ask.reason = Some(words.join(" ")),
            _ => return Err("[expecting NODE | saying WORDS]".to_owned()),
        }
        self.decide(Some(&ask));
        let refused = self.last.refused.clone();
        self.refused = refused.map(|r| (r.code, r.reason));
        Ok(())
    }

    fn expect(&self, what: &str) -> Result<(), String> {
        let (subject, rest) = what.split_once(' ').ok_or("expect WHAT VALUE")?;
        let (value, quoted) = match rest.split_once('"') {
            Some((value, quoted)) => (value.trim(), Some(quoted.trim_end_matches('"'))),
            None => (rest.trim(), None),
        };
        let got = match subject {
            "owner" => {
                let owner = self.ownership.owner.to_string();
                let reason = &self.ownership.reason;
                return match (value.split_whitespace().next(), quoted) {
                    (Some(v), Some(q)) if v == owner && reason.contains(q) => Ok(()),
                    (Some(v), None) if v == owner => Ok(()),
                    _ => Err(format!("but owner is {owner} because {reason:?}")),
                };
            }
            "waiting" if value == "for nothing" => return same(&self.last.waiting_for, &vec![]),
            "waiting" => {
                let wanted = quoted.unwrap_or_default();
                let waits = &self.last.waiting_for;
                return if waits.iter().any(|w| w.contains(wanted)) {
                    Ok(())
                } else {
                    Err(format!("but it waits for {waits:?}"))
                };
            }
            "refused" => {
                let (code, reason) = self.refused.clone().unwrap_or(("nothing", String::new()));
                return if code == value && reason.contains(quoted.unwrap_or_default()) {
                    Ok(())
                } else {
                    Err(format!("but refused was {code}: {reason:?}"))
                };
            }
            "phone" => match (&self.verdict, value) {
                (Some(Verdict::Counts), "counts") | (Some(Verdict::Elsewhere), "elsewhere") => {
                    return Ok(());
                }
                (Some(Verdict::Refused(why)), "refused")
                    if why.contains(quoted.unwrap_or_default()) =>
                {
                    return Ok(());
                }
                (other, _) => return Err(format!("but the phone was judged {other:?}")),
            },
            "hold-off" => {
                let hold_off = self.last.hold_off.as_ref().and_then(|h| h.until);
                if value == "none" {
                    return same(&hold_off, &None);
                }
                let until = span(value.trim_start_matches("until ").trim())?;
                return same(&hold_off, &Some(until));
            }
            "phase" => self.last.phase.as_str().to_owned(),
            "epoch" => self.ownership.epoch.to_string(),
            "link" => word_of(&self.link()),
            "failback" => {
                let by = span(value.trim_start_matches("by ").trim())?;
                return same(&self.last.failback_deadline, &Some(by));
            }
            _ => return Err("no such expectation".to_owned()),
        };
        same(&got.as_str(), &value)
    }

    fn link(&self) -> Colour {
        colour(Link {
            up: self.view.peer.is_ok(),
            i_back_it_up: self.rules.backs_up_voicemail,
            it_backs_me_up: false,
            i_serve_it: self.ownership.owner == self.view.me,
        })
    }
}

fn same<T: PartialEq + std::fmt::Debug>(got: &T, wanted: &T) -> Result<(), String> {
    if got == wanted {
        Ok(())
    } else {
        Err(format!("but it is {got:?}"))
    }
}

/// Both clocks at `mono` after the start of the example.
pub(crate) fn wall(mono: Duration) -> Now {
    let start = 1_795_000_000_000;
    Now {
        mono,
        wall: UnixMillis(start + u64::try_from(mono.as_millis()).expect("a short example")),
    }
}

fn word<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(serde_json::Value::from(text)).map_err(|e| e.to_string())
}

fn word_of<T: serde::Serialize>(value: &T) -> String {
    let json = serde_json::to_value(value).expect("a word");
    json.as_str().expect("a text").to_owned()
}

/// `45s`, `3m`, `1h`, and sums such as `2m59s`.
fn span(text: &str) -> Result<Duration, String> {
    let mut total = Duration::ZERO;
    let mut digits = String::new();
    for c in text.chars() {
        let unit = match c {
            '0'..='9' => {
                digits.push(c);
                continue;
            }
            's' => 1,
            'm' => 60,
            'h' => 3600,
            _ => return Err(format!("{text} is no time such as 2m59s")),
        };
        let n: u64 = digits.parse().map_err(|_| format!("{text} is no time"))?;
        total += Duration::from_secs(n * unit);
        digits.clear();
    }
    if digits.is_empty() {
        Ok(total)
    } else {
        Err(format!("{text} lacks a unit"))
    }
}
