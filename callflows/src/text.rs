//! Texts with variables in them: `${name}` stands for a value, `$$` for a dollar sign.

use std::collections::BTreeMap;

/// Longest text that comes out of a template, in characters; the rest is cut, so that no flow
/// can double a variable until the memory is full.
pub(crate) const MAX_TEXT: usize = 1_000;

/// Variables the engine sets itself; a flow can read but not set them.
pub(crate) const BUILT_IN: &[&str] = &[
    "mailbox",
    "caller_number",
    "caller_name",
    "has_pin",
    "takes_messages",
    "mailbox_name",
    "now",
    "new",
    "saved",
    "old",
    "total",
    "message_number",
    "message_caller",
    "message_received",
    "message_state",
    "message_seconds",
    "message_urgent",
];

/// A call's variables.
pub type Variables = BTreeMap<String, String>;

/// A text with variables in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Variable(String),
}

/// Whether `name` can name a variable: 1 to 40 lower-case letters, digits, underscores.
pub(crate) fn is_variable_name(name: &str) -> bool {
    (1..=40).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

impl Template {
    /// Reads `text`; the error says what is wrong in it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            literal(&mut parts, before);
            rest = if let Some(after) = after.strip_prefix('$') {
                literal(&mut parts, "$");
                after
            } else {
                let (name, after) = after
                    .strip_prefix('{')
                    .and_then(|named| named.split_once('}'))
                    .ok_or("after `$` a variable in braces is expected, as in `${mailbox}`; write `$$` for a dollar sign")?;
                if !is_variable_name(name) {
                    return Err(format!(
                        "`{}` can't name a variable: lower-case letters, digits and underscores, a letter first, at most 40",
                        crate::short(name)
                    ));
                }
                parts.push(Part::Variable(name.to_owned()));
                after
            };
        }
        literal(&mut parts, rest);
        Ok(Self(parts))
    }

    /// The variables it reads.
    pub(crate) fn variables(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Variable(name) => Some(name.as_str()),
            Part::Literal(_) => None,
        })
    }

    /// The text with the values put in; an unset variable is empty.
    pub(crate) fn fill(&self, variables: &Variables) -> String {
        let pieces = self.0.iter().map(|part| match part {
            Part::Literal(text) => text.as_str(),
            Part::Variable(name) => variables.get(name).map_or("", String::as_str),
        });
        pieces.flat_map(str::chars).take(MAX_TEXT).collect()
    }
}

fn literal(parts: &mut Vec<Part>, text: &str) {
    match parts.last_mut() {
        _ if text.is_empty() => {}
        Some(Part::Literal(last)) => last.push_str(text),
        _ => parts.push(Part::Literal(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_put_in() {
        let variables = Variables::from([("mailbox".to_owned(), "2001".to_owned())]);
        let filled = |text| Template::parse(text).map(|t| t.fill(&variables));
        assert_eq!(
            filled("box ${mailbox}, $$5, ${unset}."),
            Ok("box 2001, $5, .".to_owned())
        );
        assert!(filled("${mailbox").is_err());
        assert!(filled("$mailbox").is_err());
        assert!(filled("${Mail Box}").is_err());
    }

    #[test]
    fn a_value_cannot_grow_without_bound() {
        let variables = Variables::from([("x".to_owned(), "é".repeat(MAX_TEXT))]);
        let doubled = Template::parse("${x}${x}").unwrap().fill(&variables);
        assert_eq!(doubled.chars().count(), MAX_TEXT);
    }
}
