//! Every rule is cited by a test: docs/rules.md against the tests' sources, data and file names.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed expectation is the failure of the test"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// What is looked at: sources with tests in them, and folders of tests.
const CRATES: [&str; 6] = [
    "callflows",
    "config",
    "store",
    "tests",
    "vmsync/core",
    "vmsync",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every `R-XX-n` of a text; in names of functions it is written `r_xx_n`.
fn rules_in(text: &str) -> BTreeSet<String> {
    let text = text.to_uppercase();
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices(['R']) {
        let word: String = text[at..].chars().take(8).collect();
        let parts: Vec<_> = word.split(['-', '_']).collect();
        let [_, kind, number, ..] = parts.as_slice() else {
            continue;
        };
        let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
        let kind_fits = kind.len() == 2 && kind.bytes().all(|b| b.is_ascii_uppercase());
        let apart = !text[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
        if parts[0] == "R" && kind_fits && apart && !digits.is_empty() {
            found.insert(format!("R-{kind}-{digits}"));
        }
    }
    found
}

/// Files below `folder`, build output left out.
fn files(folder: &Path, all: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if !path.is_dir() {
            all.push(path);
        } else if !path.ends_with("target") {
            files(&path, all);
        }
    }
}

/// Who cites each rule.
fn cited() -> BTreeMap<String, BTreeSet<PathBuf>> {
    let mut all = Vec::new();
    for folder in CRATES {
        for part in ["src", "tests"] {
            files(&root().join(folder).join(part), &mut all);
        }
    }
    let mut cited: BTreeMap<String, BTreeSet<PathBuf>> = BTreeMap::new();
    for path in all {
        let relative = path.strip_prefix(root()).unwrap().to_path_buf();
        if relative == Path::new("tests/tests/rules.rs") {
            continue;
        }
        let in_tests = relative.components().any(|c| c.as_os_str() == "tests");
        let of_tests = in_tests || path.ends_with("tests.rs");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let mut shown = rules_in(path.file_name().unwrap().to_str().unwrap_or_default());
        if of_tests {
            shown.extend(rules_in(&text));
        } else if let Some((_, tests)) = text.split_once("#[cfg(test)]") {
            shown.extend(rules_in(tests));
        }
        for rule in shown {
            cited.entry(rule).or_default().insert(relative.clone());
        }
    }
    cited
}

/// Rule and state, as docs/rules.md has them.
fn listed() -> BTreeMap<String, String> {
    let page = fs::read_to_string(root().join("docs/rules.md")).unwrap();
    let rows = page.lines().filter(|l| l.starts_with("| R-"));
    let mut listed = BTreeMap::new();
    for row in rows {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let &[rule, is, state] = cells.as_slice() else {
            panic!("three cells: {row}")
        };
        assert!(["done", "part", "later"].contains(&state), "{row}");
        assert!(!is.is_empty(), "{row}");
        assert!(
            listed.insert(rule.to_owned(), state.to_owned()).is_none(),
            "twice: {row}"
        );
    }
    listed
}

#[test]
fn every_rule_is_cited_by_a_test_and_every_citation_is_of_a_rule() {
    let (listed, cited) = (listed(), cited());
    let mut wrong = Vec::new();
    for (rule, state) in &listed {
        let by = cited.get(rule).map_or(0, BTreeSet::len);
        println!("{rule:8} {state:6} cited in {by} files");
        if by == 0 && state != "later" {
            wrong.push(format!("{rule} is marked {state}, and no test cites it"));
        }
        if by > 0 && state == "later" {
            wrong.push(format!(
                "{rule} is marked later, and is cited by {:?}",
                cited[rule]
            ));
        }
    }
    for (rule, by) in &cited {
        if !listed.contains_key(rule) {
            wrong.push(format!("{rule} of {by:?} is not in docs/rules.md"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_list_has_every_number_up_to_its_last() {
    let mut numbers: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
    for rule in listed().keys() {
        let (kind, number) = rule.rsplit_once('-').unwrap();
        numbers
            .entry(kind.to_owned())
            .or_default()
            .insert(number.parse().unwrap());
    }
    let last = |kind: &str| numbers.get(kind).map_or(0, |n| *n.last().unwrap());
    for (kind, count) in [
        ("R-TO", 7),
        ("R-SY", 6),
        ("R-FO", 8),
        ("R-FB", 8),
        ("R-VR", 4),
        ("R-AL", 3),
        ("R-MB", 14),
        ("R-IN", 3),
        ("R-CF", 7),
    ] {
        assert_eq!(last(kind), count, "{kind}");
        assert_eq!(numbers[kind].len(), count as usize, "{kind}: a gap");
    }
}

#[test]
fn citations_are_found_in_text_and_in_names() {
    let text = "fn every_row_of_r_al_2() // R-FB-1, (R-MB-14); not xR-FB-2, R-F-1, R-FB-x";
    let found: Vec<_> = rules_in(text).into_iter().collect();
    assert_eq!(found, ["R-AL-2", "R-FB-1", "R-MB-14"]);
}
