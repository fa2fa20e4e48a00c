//! One bad operation must not hold up the rest: it is found by halving what is sent at once, tried
//! three times alone, and then skipped in sight of everybody.

use super::BATCH;

/// How often one operation is tried alone before it is skipped.
const TRIES: u32 = 3;

/// How much is sent at once, after refusals for content.
#[derive(Debug, Clone, Default)]
pub(super) struct Narrow {
    /// At most so many operations in the next mail; `None` = no limit of ours.
    most: Option<u64>,
    tries: u32,
    why: String,
}

impl Narrow {
    /// Operations the next mail may carry.
    pub(super) fn most(&self) -> u64 {
        self.most.unwrap_or(BATCH)
    }

    /// One at a time while the bad one is looked for: what follows a refused mail is out of order anyway.
    pub(super) fn on(&self) -> bool {
        self.most.is_some()
    }

    /// Why the next operation is to be skipped, if it is.
    pub(super) fn skip(&self) -> Option<String> {
        (self.tries >= TRIES).then(|| self.why.clone())
    }

    /// A mail with so many operations was refused for its content.
    pub(super) fn refused(&mut self, operations: u64, why: &str) {
        if operations > 1 {
            self.most = Some(operations / 2);
            self.tries = 0;
        } else {
            self.most = Some(1);
            self.tries = self.tries.saturating_add(1);
            why.clone_into(&mut self.why);
        }
    }

    /// A mail with so many operations was taken.
    pub(super) fn taken(&mut self, operations: u64) {
        if operations == 0 {
            return;
        }
        self.tries = 0;
        self.most = self
            .most
            .map(|most| most.saturating_mul(2))
            .filter(|most| *most < BATCH);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_one_among_many_is_found_by_halving_and_skipped_after_three_tries() {
        for bad in 0..100_u64 {
            let (mut narrow, mut next, mut skipped, mut mails) = (Narrow::default(), 0, None, 0);
            while next < 100 {
                mails += 1;
                assert!(mails < 60, "too many mails");
                if narrow.skip().is_some() {
                    skipped = Some(next);
                    next += 1;
                    narrow.taken(1);
                    continue;
                }
                let count = narrow.most().min(100 - next);
                if skipped.is_none() && (next..next + count).contains(&bad) {
                    narrow.refused(count, "554 no");
                } else {
                    next += count;
                    narrow.taken(count);
                }
            }
            assert_eq!(skipped, Some(bad));
        }
    }
}
