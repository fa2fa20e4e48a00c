//! Lists come in pages: `limit` and `cursor` in, `items` and `next` out.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::problem::Problem;

/// Items a page holds where `limit` is not given.
const DEFAULT: usize = 100;
/// Most items a page holds.
const MOST: usize = 1000;

/// Which page.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Paging {
    /// Most items wanted, 1 to 1000; default 100.
    pub(super) limit: Option<usize>,
    /// `next` of the page before.
    pub(super) cursor: Option<String>,
}

/// One page.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Listed<T: ToSchema> {
    /// The items.
    pub(super) items: Vec<T>,
    /// The `cursor` of the next page; null at the end.
    pub(super) next: Option<String>,
}

/// Checks a `limit`.
pub(super) fn limit(asked: Option<usize>) -> Result<usize, Problem> {
    match asked {
        None => Ok(DEFAULT),
        Some(n @ 1..=MOST) => Ok(n),
        Some(n) => Err(Problem::invalid(format!(
            "limit is {n}; it must be 1 to {MOST}"
        ))),
    }
}

/// A page of items with their numbers: one more than `limit` tells that there is a next page, whose
/// cursor is the number of the last item of this.
pub(super) fn numbered<T: ToSchema>(mut found: Vec<(u64, T)>, limit: usize) -> Listed<T> {
    let more = found.len() > limit;
    found.truncate(limit);
    let last = found.last().map(|(number, _)| number.to_string());
    Listed {
        next: last.filter(|_| more),
        items: found.into_iter().map(|(_, item)| item).collect(),
    }
}

/// The number that a cursor of such a list stands for.
pub(super) fn after(cursor: Option<&str>) -> Result<Option<u64>, Problem> {
    let wrong = |_| Problem::invalid("cursor is not one of this list; hand back `next` as it came");
    cursor.map(|c| c.parse().map_err(wrong)).transpose()
}

/// Pages a list that is in memory whole, ordered by a number that `number` reads.
pub(super) fn page<T: ToSchema>(
    all: impl Iterator<Item = T>,
    paging: &Paging,
    number: impl Fn(&T) -> u64,
) -> Result<Listed<T>, Problem> {
    let limit = limit(paging.limit)?;
    let after = after(paging.cursor.as_deref())?;
    let mut rest = all.filter(|item| after.is_none_or(|last| number(item) > last));
    let items: Vec<T> = rest.by_ref().take(limit).collect();
    let more = rest.next().is_some();
    let next = items
        .last()
        .filter(|_| more)
        .map(|last| number(last).to_string());
    Ok(Listed { items, next })
}

/// As [`page`], of what is only borrowed: copies no more than the page.
pub(super) fn page_of<'a, T: ToSchema + Clone + 'a>(
    all: impl Iterator<Item = &'a T>,
    paging: &Paging,
    number: impl Fn(&T) -> u64,
) -> Result<Listed<T>, Problem> {
    // One that is none is refused there.
    let after = paging.cursor.as_ref().and_then(|text| text.parse().ok());
    let rest = all.filter(|item| after.is_none_or(|last| number(item) > last));
    page(rest.cloned(), paging, &number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(limit: usize) -> Vec<Vec<u64>> {
        let mut pages = Vec::new();
        let mut cursor = None;
        loop {
            let paging = Paging {
                limit: Some(limit),
                cursor,
            };
            let one = page(1..=5_u64, &paging, |n| *n).unwrap();
            pages.push(one.items);
            cursor = one.next;
            if cursor.is_none() {
                return pages;
            }
        }
    }

    #[test]
    fn pages_join_without_gap_or_double() {
        assert_eq!(pages(2), [vec![1, 2], vec![3, 4], vec![5]]);
        assert_eq!(pages(5), [vec![1, 2, 3, 4, 5]]);
    }

    #[test]
    fn a_limit_out_of_range_is_refused() {
        assert!(limit(Some(0)).is_err());
        assert!(limit(Some(MOST + 1)).is_err());
    }
}
