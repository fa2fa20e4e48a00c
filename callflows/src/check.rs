//! A source checked as a whole: syntax, every node, and the rules of the graph (R-CF-4).

use std::{collections::BTreeSet, ops::Range};

use toml::de::{DeTable, DeValue};

use crate::{
    error::{Errors, FlowError},
    fields::{Fields, in_order, wrong_type},
    flow::{Act, Edge, Flow, Node, NodeId, is_flow_name},
    read::Reader,
    short,
    text::BUILT_IN,
};

/// Largest source of a call flow, bytes.
pub const MAX_SOURCE: usize = 256 * 1024;
/// Most nodes of a flow.
const MAX_NODES: usize = 1_000;

/// Checks the TOML `source` of a call flow; `file` is named in the errors, and its stem is the
/// flow's name (`leave.toml`). Every error comes at once, in the order of the source. Never panics.
pub fn check(source: &[u8], file: &str) -> Result<Flow, Vec<FlowError>> {
    let text = match as_text(source) {
        Ok(text) => text,
        Err((valid, message)) => {
            let mut errors = Errors::new(valid);
            errors.at(&(valid.len()..valid.len()), message);
            return Err(errors.into_errors(file));
        }
    };
    let mut errors = Errors::new(text);
    let (document, syntax) = DeTable::parse_recoverable(text);
    for error in &syntax {
        let end = text.len()..text.len();
        errors.at(&error.span().unwrap_or(end), error.message());
    }
    let name = file.rsplit(['/', '\\']).next().unwrap_or(file);
    let name = name.strip_suffix(".toml").unwrap_or(name);
    if !is_flow_name(name) {
        errors.at(&(0..0), format!("`{}` can't name a call flow: 1 to 63 lower-case letters, digits, underscores or inner hyphens", short(name)));
    }
    let flow = read(name, document.get_ref(), &mut errors, syntax.is_empty());
    match flow {
        Some(flow) if errors.is_empty() => Ok(flow),
        _ => Err(errors.into_errors(file)),
    }
}

/// The source as text, or what of it is text and why the rest is not.
fn as_text(source: &[u8]) -> Result<&str, (&str, String)> {
    if source.len() > MAX_SOURCE {
        return Err((
            "",
            format!(
                "a call flow has at most {MAX_SOURCE} bytes, this has {}; split it into modules",
                source.len()
            ),
        ));
    }
    std::str::from_utf8(source).map_err(|error| {
        let (valid, _) = source
            .split_at_checked(error.valid_up_to())
            .unwrap_or((&[], &[]));
        let valid = std::str::from_utf8(valid).unwrap_or("");
        (
            valid,
            "not UTF-8 text from here on; save the file as UTF-8".to_owned(),
        )
    })
}

/// Reads the whole document. `whole`: the syntax had no errors, so nothing is missing from it, and
/// rules of the graph can be told without false alarms.
fn read(name: &str, document: &DeTable<'_>, errors: &mut Errors<'_>, whole: bool) -> Option<Flow> {
    let mut top = Fields::new(document, "the call flow", 0..0);
    let start = top.text("start", errors);
    let variables = top.table("variables", errors);
    let nodes = top.table("nodes", errors);
    if whole {
        let given = [
            ("start", top.get("start").is_some()),
            ("nodes", top.get("nodes").is_some()),
        ];
        for (key, _) in given.iter().filter(|(_, given)| !given) {
            top.missing(
                key,
                if *key == "start" {
                    "the name of the first node"
                } else {
                    "its nodes, as in [nodes.welcome]"
                },
                errors,
            );
        }
        top.finish(errors);
    }
    let (nodes, nodes_at) = nodes?;
    let entries = in_order(nodes);
    if entries.len() > MAX_NODES {
        errors.at(
            &nodes_at,
            format!(
                "a call flow has at most {MAX_NODES} nodes, this has {}; split it into modules",
                entries.len()
            ),
        );
        return None;
    }
    let names = entries.iter().enumerate();
    let mut reader = Reader {
        nodes: names
            .map(|(id, ((name, _), _))| ((*name).to_owned(), id))
            .collect(),
        set: BTreeSet::new(),
        read: Vec::new(),
        errors,
    };
    let variables = variables.map_or_else(Vec::new, |(table, _)| initial(&mut reader, table));
    let mut acts: Vec<Option<Act>> = Vec::new();
    for ((name, at), value) in &entries {
        acts.push(match value.get_ref() {
            DeValue::Table(table) => reader.act(name, table, at.clone()),
            other => {
                reader.errors.at(
                    &value.span(),
                    wrong_type(name, "a table, the node's action and where it leads", other),
                );
                None
            }
        });
    }
    let start = start.map(|(name, at)| reader.resolve(name, &at));
    unset_variables(&mut reader);
    let errors = reader.errors;
    let headers = entries
        .iter()
        .map(|((name, at), _)| ((*name).to_owned(), at.clone()));
    // A node that could not be read leads nowhere one could know of, so the graph is judged whole or not at all.
    let acts: Option<Vec<Act>> = acts.into_iter().collect();
    let nodes = placed(headers, acts?, errors);
    let start = start?;
    if errors.is_empty() {
        unreachable_nodes(&nodes, start, errors);
        loops_without_input(&nodes, errors);
    }
    Some(Flow {
        name: name.to_owned(),
        nodes,
        start,
        variables: variables.into_iter().collect(),
    })
}

fn placed(
    named: impl Iterator<Item = (String, Range<usize>)>,
    acts: Vec<Act>,
    errors: &Errors<'_>,
) -> Vec<Node> {
    named
        .zip(acts)
        .map(|((name, at), act)| Node {
            name,
            place: errors.place(at.start),
            act,
        })
        .collect()
}

/// `[variables]`: what each holds when the call begins.
fn initial(reader: &mut Reader<'_, '_>, table: &DeTable<'_>) -> Vec<(String, String)> {
    let mut values = Vec::new();
    for ((name, at), value) in in_order(table) {
        let name = reader.sets(name, &at);
        match value.get_ref().as_str() {
            Some(text) => values.push((name, text.chars().take(crate::text::MAX_TEXT).collect())),
            None => reader.errors.at(
                &value.span(),
                wrong_type(&name, "a text in quotes", value.get_ref()),
            ),
        }
    }
    values
}

fn unset_variables(reader: &mut Reader<'_, '_>) {
    for (name, at) in std::mem::take(&mut reader.read) {
        if !BUILT_IN.contains(&name.as_str()) && !reader.set.contains(&name) {
            reader.errors.at(&at, format!("variable `{name}` is never set: give it a value in [variables], a `set` or a `gather`"));
        }
    }
}

fn unreachable_nodes(nodes: &[Node], start: NodeId, errors: &mut Errors<'_>) {
    let reached = reachable(&ways(nodes, |_| true), start);
    for (id, node) in nodes.iter().enumerate() {
        if id != start && !reached.contains(&id) {
            errors.at_place(
                node.place,
                format!(
                    "node `{}` can't be reached from the start",
                    short(&node.name)
                ),
            );
        }
    }
}

/// One error for each ring of nodes that can go on for ever with no key pressed.
fn loops_without_input(nodes: &[Node], errors: &mut Errors<'_>) {
    let onward = ways(nodes, |edge| !edge.bounded);
    let mut back = vec![Vec::new(); nodes.len()];
    for (from, targets) in onward.iter().enumerate() {
        for to in targets {
            back.get_mut(*to)
                .into_iter()
                .for_each(|list| list.push(from));
        }
    }
    let mut told = BTreeSet::new();
    for (id, node) in nodes.iter().enumerate() {
        if told.contains(&id) {
            continue;
        }
        let ahead = reachable(&onward, id);
        if ahead.contains(&id) {
            let ring: BTreeSet<NodeId> =
                ahead.intersection(&reachable(&back, id)).copied().collect();
            let members = ring.iter().filter_map(|id| nodes.get(*id)).take(8);
            let names: Vec<String> = members.map(|node| short(&node.name)).collect();
            errors.at_place(node.place, format!("loop without the caller's input: {}; put a menu, or a `loop` with `times`, into it", names.join(", ")));
            told.extend(ring);
        }
    }
}

/// For each node the nodes that follow it over the edges that `follow` allows.
fn ways(nodes: &[Node], follow: impl Fn(&Edge) -> bool) -> Vec<Vec<NodeId>> {
    let targets = |node: &Node| {
        let edges = node.act.edges().into_iter();
        edges.filter(&follow).map(|edge| edge.to).collect()
    };
    nodes.iter().map(targets).collect()
}

/// The nodes reached from `from` in one step or more.
fn reachable(ways: &[Vec<NodeId>], from: NodeId) -> BTreeSet<NodeId> {
    let mut reached = BTreeSet::new();
    let mut todo = vec![from];
    while let Some(id) = todo.pop() {
        for to in ways.get(id).into_iter().flatten() {
            if reached.insert(*to) {
                todo.push(*to);
            }
        }
    }
    reached
}
