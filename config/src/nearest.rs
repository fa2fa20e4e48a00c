//! Which known name someone may have meant.

/// The name of `known` with the fewest letters to change to get from `word`; `None` when `known` is empty.
pub(crate) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    // A name is short; more of a long one would only cost time.
    let word: Vec<char> = word.to_ascii_lowercase().chars().take(80).collect();
    known.into_iter().min_by_key(|name| distance(&word, name))
}

/// Levenshtein distance: letters to insert, delete or replace.
fn distance(word: &[char], name: &str) -> usize {
    let mut row: Vec<usize> = (0..=word.len()).collect();
    for (i, b) in name.chars().enumerate() {
        let mut next = vec![i + 1];
        for (a, (above_left, above)) in word.iter().zip(row.iter().zip(row.iter().skip(1))) {
            let left = next.last().copied().unwrap_or(0);
            let replaced = above_left + usize::from(*a != b);
            next.push(replaced.min(above + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_key() {
        let known = ["listen", "passive_ports", "user", "password_file"];
        assert_eq!(nearest("password", known), Some("password_file"));
        assert_eq!(nearest("Listn", known), Some("listen"));
        assert_eq!(nearest("", known), Some("user"));
        assert_eq!(nearest("x", []), None);
        let word: Vec<char> = "kitten".chars().collect();
        assert_eq!(distance(&word, "sitting"), 3);
    }
}
