//! What is said, and texts with variables.

use std::ops::Range;

use toml::de::DeValue;

use super::{MAX_SAY, Reader};
use crate::{
    fields::{Fields, one_of, wrong_type},
    flow::Say,
    short,
    text::Template,
};

impl Reader<'_, '_> {
    pub(super) fn say(&mut self, f: &mut Fields<'_>, key: &'static str) -> Vec<Say> {
        let Some((value, at)) = f.get(key) else {
            return Vec::new();
        };
        let Some(list) = value.as_array() else {
            return self.said(value, &at).into_iter().collect();
        };
        if list.len() > MAX_SAY {
            self.errors.at(
                &at,
                format!("`{key}` has more than {MAX_SAY} parts; split the node"),
            );
        }
        let items = list.iter().take(MAX_SAY);
        items
            .filter_map(|item| self.said(item.get_ref(), &item.span()))
            .collect()
    }

    /// One part of `say`: a prompt's name, or a table with one spoken value.
    fn said(&mut self, item: &DeValue<'_>, at: &Range<usize>) -> Option<Say> {
        if let Some(name) = item.as_str() {
            if !is_prompt_name(name) {
                self.errors.at(at, format!("`{}` can't name a prompt: 1 to 100 letters, digits, `-`, `_` and `/`; for words to be spoken write {{ text = \"…\" }}", short(name)));
            }
            return Some(Say::Prompt(name.to_owned()));
        }
        let single = item
            .as_table()
            .filter(|t| t.len() == 1)
            .and_then(|t| t.iter().next());
        let Some((kind, value)) = single else {
            self.errors.at(at, "a part of `say` is a prompt's name or a table with one value, as in { number = \"${new}\" }");
            return None;
        };
        let kind_at = kind.span();
        let Some(text) = value.get_ref().as_str() else {
            self.errors.at(
                &value.span(),
                wrong_type(kind.get_ref(), "a text in quotes", value.get_ref()),
            );
            return None;
        };
        if kind.get_ref() == "message" {
            if text != "audio" {
                self.errors.at(&value.span(), "`message` must be \"audio\"; caller and time are variables, `${message_caller}` and `${message_received}`");
            }
            return Some(Say::Message);
        }
        let make: fn(Template) -> Say = match kind.get_ref().as_ref() {
            "text" => Say::Text,
            "number" => Say::Number,
            "digits" => Say::Digits,
            "time" => Say::Time,
            "date" => Say::Date,
            "greeting" => Say::Greeting,
            "name" => Say::Name,
            other => {
                let known = [
                    "text", "number", "digits", "time", "date", "greeting", "name", "message",
                ];
                self.errors.at(
                    &kind_at,
                    format!("`{}` can't be said{}", short(other), one_of(other, &known)),
                );
                return None;
            }
        };
        Some(make(self.template(text, &value.span())))
    }

    pub(super) fn template(&mut self, text: &str, at: &Range<usize>) -> Template {
        match Template::parse(text) {
            Ok(template) => {
                let read = template
                    .variables()
                    .map(|name| (name.to_owned(), at.clone()));
                self.read.extend(read);
                template
            }
            Err(message) => {
                self.errors.at(at, message);
                Template::default()
            }
        }
    }
}

fn is_prompt_name(name: &str) -> bool {
    (1..=100).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'/'))
        && name.split('/').all(|part| !part.is_empty())
}
