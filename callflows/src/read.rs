//! A node's table read into its action.

mod say;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    str::FromStr,
};

use toml::de::{DeTable, DeValue};

use crate::{
    error::Errors,
    fields::{Fields, in_order, one_of, wrong_type},
    flow::{Act, Gather, Leave, Menu, NodeId, Patience, Pin, Step, Test},
    mail::State,
    short,
    text::{BUILT_IN, Template, is_variable_name},
};

/// Most parts of a list: things said in one go, values compared with.
const MAX_SAY: usize = 50;
/// Longest recording in seconds (R-MB-8).
const MAX_RECORDING: u32 = 3_600;
/// Keys of a telephone.
const KEYS: &str = "0123456789*#ABCD";

const ACTIONS: [&str; 14] = [
    "play",
    "menu",
    "gather",
    "pin",
    "leave",
    "messages",
    "message",
    "mark",
    "transfer",
    "condition",
    "set",
    "loop",
    "goto",
    "disconnect",
];

/// Reads nodes; knows every node's name, and remembers which variables are set and read.
pub(crate) struct Reader<'e, 's> {
    pub errors: &'e mut Errors<'s>,
    pub nodes: BTreeMap<String, NodeId>,
    pub set: BTreeSet<String>,
    pub read: Vec<(String, Range<usize>)>,
}

impl Reader<'_, '_> {
    /// The action of one node; `None` where its kind can't be told. Errors are noted, and the
    /// rest of the node is read all the same, so that one check shows them all.
    pub(crate) fn act(
        &mut self,
        name: &str,
        table: &DeTable<'_>,
        span: Range<usize>,
    ) -> Option<Act> {
        let mut fields = Fields::new(table, format!("node `{}`", short(name)), span);
        let f = &mut fields;
        let Some((action, at)) = f.text("do", self.errors) else {
            if f.get("do").is_none() {
                f.missing(
                    "do",
                    &format!("its action, one of {}", ACTIONS.join(", ")),
                    self.errors,
                );
            }
            return None;
        };
        let act = match action {
            "play" => Some(self.play(f)),
            "menu" => Some(Act::Menu(self.menu(f))),
            "gather" => Some(Act::Gather(self.gather(f))),
            "pin" => Some(Act::Pin(self.pin(f))),
            "leave" => Some(Act::Leave(self.leave(f))),
            "messages" => Some(self.messages(f)),
            "message" => Some(self.message(f)),
            "mark" => Some(self.mark(f)),
            "transfer" => Some(self.transfer(f)),
            "condition" => Some(self.condition(f)),
            "set" => Some(self.set(f)),
            "loop" => Some(Act::Loop {
                times: self.times(f),
                next: self.target(f, "next"),
                done: self.target(f, "done"),
            }),
            "goto" => Some(Act::Goto {
                to: self.target(f, "to"),
            }),
            "disconnect" => Some(Act::Disconnect {
                say: self.say(f, "say"),
            }),
            other => {
                let near = one_of(other, &ACTIONS);
                self.errors
                    .at(&at, format!("`{}` is not an action{near}", short(other)));
                None
            }
        };
        if act.is_some() {
            fields.finish(self.errors);
        }
        act
    }

    fn play(&mut self, f: &mut Fields<'_>) -> Act {
        let say = self.say(f, "say");
        if say.is_empty() && f.get("say").is_none() {
            f.missing("say", "what is to be heard", self.errors);
        }
        Act::Play {
            say,
            next: self.target(f, "next"),
        }
    }

    fn menu(&mut self, f: &mut Fields<'_>) -> Menu {
        let menu = Menu {
            say: self.say(f, "say"),
            say_invalid: self.say(f, "say_invalid"),
            keys: self.keys(f),
            patience: self.patience(f),
            timeout: self.optional_target(f, "timeout"),
            invalid: self.optional_target(f, "invalid"),
            failed: self.optional_target(f, "failed"),
        };
        let covered = f.get("timeout").is_some() && f.get("invalid").is_some();
        if !covered && f.get("failed").is_none() {
            f.missing(
                "failed",
                "the node after the last try (or give both `timeout` and `invalid`)",
                self.errors,
            );
        }
        menu
    }

    fn keys(&mut self, f: &mut Fields<'_>) -> Vec<(String, NodeId)> {
        let Some((table, span)) = f.table("keys", self.errors) else {
            if f.get("keys").is_none() {
                f.missing(
                    "keys",
                    "which key leads to which node, as in `keys = { 1 = \"sales\" }`",
                    self.errors,
                );
            }
            return Vec::new();
        };
        let mut keys: Vec<(String, NodeId)> = Vec::new();
        for ((key, at), value) in in_order(table) {
            if !(1..=15).contains(&key.len()) || !key.chars().all(|c| KEYS.contains(c)) {
                self.errors.at(
                    &at,
                    format!("`{}` is not a key: write 1 to 15 of {KEYS}", short(key)),
                );
                continue;
            }
            let begins = |k: &str| k.starts_with(key) || key.starts_with(k);
            if let Some((other, _)) = keys.iter().find(|(k, _)| begins(k)) {
                self.errors.at(&at, format!("key `{key}` and key `{other}` begin alike, so the shorter always wins; change one"));
            }
            let Some(name) = value.get_ref().as_str() else {
                let message = wrong_type(key, "the name of a node", value.get_ref());
                self.errors.at(&value.span(), message);
                continue;
            };
            let to = self.resolve(name, &value.span());
            keys.push((key.to_owned(), to));
        }
        if table.is_empty() {
            self.errors
                .at(&span, "`keys` is empty: a menu needs at least one key");
        }
        keys
    }

    fn gather(&mut self, f: &mut Fields<'_>) -> Gather {
        let min_digits = f.number("min_digits", 1..=32, 1, self.errors);
        let max_digits = f.number("max_digits", 1..=32, 15, self.errors);
        if min_digits > max_digits {
            self.errors.at(
                f.span(),
                format!("`min_digits` ({min_digits}) is more than `max_digits` ({max_digits})"),
            );
        }
        let into = f.text("into", self.errors);
        if f.get("into").is_none() {
            f.missing("into", "the variable that takes the digits", self.errors);
        }
        Gather {
            say: self.say(f, "say"),
            into: into.map_or_else(String::new, |(name, at)| self.sets(name, &at)),
            min_digits: min_digits as usize,
            max_digits: max_digits as usize,
            patience: self.patience(f),
            next: self.target(f, "next"),
            failed: self.target(f, "failed"),
        }
    }

    fn pin(&mut self, f: &mut Fields<'_>) -> Pin {
        let failed = self.target(f, "failed");
        Pin {
            say: self.say(f, "say"),
            say_wrong: self.say(f, "say_wrong"),
            patience: self.patience(f),
            ok: self.target(f, "ok"),
            failed,
            locked: self.optional_target(f, "locked").unwrap_or(failed),
        }
    }

    fn leave(&mut self, f: &mut Fields<'_>) -> Leave {
        let next = self.target(f, "next");
        let end_keys = f.text("end_keys", self.errors);
        if let Some((keys, at)) = &end_keys
            && !keys.chars().all(|c| KEYS.contains(c))
        {
            self.errors.at(
                at,
                format!("`end_keys` must be keys of {KEYS}, not \"{}\"", short(keys)),
            );
        }
        Leave {
            say: self.say(f, "say"),
            max_seconds: f.number("max_seconds", 1..=MAX_RECORDING, MAX_RECORDING, self.errors),
            silence_seconds: f.number("silence_seconds", 0..=60, 5, self.errors),
            end_keys: end_keys
                .map_or("#", |(keys, _)| keys)
                .chars()
                .take(16)
                .collect(),
            urgent: f.flag("urgent", self.errors),
            private: f.flag("private", self.errors),
            next,
            empty: self.optional_target(f, "empty").unwrap_or(next),
            failed: self.target(f, "failed"),
        }
    }

    fn messages(&mut self, f: &mut Fields<'_>) -> Act {
        let orders = [("oldest", false), ("newest", true)];
        Act::Messages {
            newest_first: self.choice(f, "order", &orders).unwrap_or(false),
            some: self.target(f, "some"),
            none: self.target(f, "none"),
            failed: self.target(f, "failed"),
        }
    }

    fn message(&mut self, f: &mut Fields<'_>) -> Act {
        let steps = [
            ("first", Step::First),
            ("next", Step::Next),
            ("previous", Step::Previous),
        ];
        Act::Message {
            step: self.choice(f, "step", &steps).unwrap_or(Step::Next),
            next: self.target(f, "next"),
            none: self.target(f, "none"),
        }
    }

    fn mark(&mut self, f: &mut Fields<'_>) -> Act {
        if f.get("state").is_none() {
            f.missing(
                "state",
                "one of new, unopened, old, saved, deleted",
                self.errors,
            );
        }
        Act::Mark {
            state: self.choice(f, "state", &State::NAMES).unwrap_or(State::Old),
            next: self.target(f, "next"),
            failed: self.target(f, "failed"),
        }
    }

    fn transfer(&mut self, f: &mut Fields<'_>) -> Act {
        let to = f.text("to", self.errors);
        if f.get("to").is_none() {
            f.missing("to", "the number to transfer to", self.errors);
        }
        Act::Transfer {
            to: to.map_or_else(Template::default, |(text, at)| self.template(text, &at)),
            failed: self.target(f, "failed"),
        }
    }

    fn condition(&mut self, f: &mut Fields<'_>) -> Act {
        let mut tests = Vec::new();
        tests.extend(self.parsed(f, "time").map(Test::Time));
        tests.extend(self.parsed(f, "days").map(Test::Days));
        tests.extend(self.parsed(f, "dates").map(Test::Dates));
        tests.extend(self.equal(f));
        if ["time", "days", "dates", "value"]
            .iter()
            .all(|key| f.get(key).is_none())
        {
            f.missing(
                "time",
                "a condition tests `time`, `days`, `dates` or a `value`; those given must all hold",
                self.errors,
            );
        }
        Act::Condition {
            tests,
            then: self.target(f, "then"),
            otherwise: self.target(f, "else"),
        }
    }

    /// `value = "${x}"` with `is = "1"` or `is = ["1", "2"]`.
    fn equal(&mut self, f: &mut Fields<'_>) -> Option<Test> {
        let expected = f.get("is");
        let value = f.text("value", self.errors);
        match (value, expected) {
            (Some((text, at)), Some((is, is_at))) => {
                let value = self.template(text, &at);
                let texts: Option<Vec<&str>> = match is {
                    DeValue::Array(list) => list.iter().map(|v| v.get_ref().as_str()).collect(),
                    single => single.as_str().map(|text| vec![text]),
                };
                let Some(texts) = texts.filter(|t| (1..=MAX_SAY).contains(&t.len())) else {
                    self.errors.at(
                        &is_at,
                        wrong_type("is", "a text in quotes or a list of them", is),
                    );
                    return None;
                };
                let templates = texts
                    .into_iter()
                    .map(|text| self.template(text, &is_at))
                    .collect();
                Some(Test::Equal(value, templates))
            }
            (Some(_), None) => {
                f.missing("is", "what `value` is compared with", self.errors);
                None
            }
            (None, Some(_)) if f.get("value").is_none() => {
                f.missing("value", "what is compared with `is`", self.errors);
                None
            }
            _ => None,
        }
    }

    fn set(&mut self, f: &mut Fields<'_>) -> Act {
        let mut values = Vec::new();
        if let Some((table, _)) = f.table("values", self.errors) {
            for ((name, at), value) in in_order(table) {
                let name = self.sets(name, &at);
                match value.get_ref().as_str() {
                    Some(text) => values.push((name, self.template(text, &value.span()))),
                    None => self.errors.at(
                        &value.span(),
                        wrong_type(&name, "a text in quotes", value.get_ref()),
                    ),
                }
            }
        } else if f.get("values").is_none() {
            f.missing("values", "which variables get which values", self.errors);
        }
        Act::Set {
            values,
            next: self.target(f, "next"),
        }
    }

    fn times(&mut self, f: &mut Fields<'_>) -> u32 {
        if f.get("times").is_none() {
            f.missing("times", "how often it goes on to `next`", self.errors);
        }
        f.number("times", 1..=100, 1, self.errors)
    }

    fn patience(&mut self, f: &mut Fields<'_>) -> Patience {
        Patience {
            timeout_seconds: f.number("timeout_seconds", 1..=60, 5, self.errors),
            tries: f.number("tries", 1..=10, 3, self.errors),
        }
    }

    fn target(&mut self, f: &mut Fields<'_>, key: &'static str) -> NodeId {
        if f.get(key).is_none() {
            f.missing(key, "the name of the node that follows", self.errors);
        }
        self.optional_target(f, key).unwrap_or(0)
    }

    fn optional_target(&mut self, f: &mut Fields<'_>, key: &'static str) -> Option<NodeId> {
        let (name, at) = f.text(key, self.errors)?;
        Some(self.resolve(name, &at))
    }

    /// The node called `name`; an error, and any node, where there is none.
    pub(crate) fn resolve(&mut self, name: &str, at: &Range<usize>) -> NodeId {
        self.nodes.get(name).copied().unwrap_or_else(|| {
            let known: Vec<&str> = self.nodes.keys().map(String::as_str).collect();
            self.errors.at(
                at,
                format!("there is no node `{}`{}", short(name), one_of(name, &known)),
            );
            0
        })
    }

    /// Notes that the flow sets variable `name`.
    pub(crate) fn sets(&mut self, name: &str, at: &Range<usize>) -> String {
        if BUILT_IN.contains(&name) {
            self.errors.at(
                at,
                format!("`{name}` is set by the system and can't be set by a flow"),
            );
        } else if !is_variable_name(name) {
            self.errors.at(at, format!("`{}` can't name a variable: lower-case letters, digits and underscores, a letter first, at most 40", short(name)));
        }
        self.set.insert(name.to_owned());
        name.to_owned()
    }

    /// The text of `key` as one of `choices`; `None` where it is missing or none of them.
    fn choice<T: Copy>(
        &mut self,
        f: &mut Fields<'_>,
        key: &'static str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let (text, at) = f.text(key, self.errors)?;
        let chosen = choices.iter().find(|(name, _)| *name == text);
        if chosen.is_none() {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            self.errors.at(
                &at,
                format!("`{key}` can't be `{}`{}", short(text), one_of(text, &names)),
            );
        }
        chosen.map(|(_, value)| *value)
    }

    fn parsed<T: FromStr<Err = String>>(
        &mut self,
        f: &mut Fields<'_>,
        key: &'static str,
    ) -> Option<T> {
        let (text, at) = f.text(key, self.errors)?;
        text.parse()
            .map_err(|message: String| self.errors.at(&at, message))
            .ok()
    }
}
