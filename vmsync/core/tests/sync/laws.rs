//! Whatever happens on the way, a healed pair finishes and goes quiet.

use std::time::Duration;

use proptest::prelude::*;
use vmsync_core::sync::{Blame, Session};
use vmsync_core::wire::Head;

use crate::duo::{Duo, at};

/// Something that may happen to the pair.
#[derive(Debug, Clone)]
enum Happening {
    Write(usize, u64),
    Sight(usize, bool),
    Link(usize, bool),
    Restart(usize),
    Late(usize),
    Run(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    let node = || 0..2_usize;
    prop_oneof![
        3 => (node(), 1..30_u64).prop_map(|(n, c)| Happening::Write(n, c)),
        2 => (node(), any::<bool>()).prop_map(|(n, v)| Happening::Sight(n, v)),
        2 => (node(), any::<bool>()).prop_map(|(n, v)| Happening::Link(n, v)),
        1 => node().prop_map(Happening::Restart),
        1 => node().prop_map(Happening::Late),
        3 => (0..20_000_u64).prop_map(Happening::Run),
    ]
}

impl Duo {
    fn happens(&mut self, what: &Happening, late: &mut Vec<(usize, Head)>) {
        match what {
            Happening::Write(n, count) => self.write(*n, *count),
            Happening::Sight(n, visible) => self.sight(*n, *visible),
            Happening::Link(n, up) => self.nodes[*n].link_up = *up,
            Happening::Restart(n) => {
                self.nonces += 1;
                let (nonce, now) = (self.nonces, at(self.now));
                let node = &mut self.nodes[*n];
                node.session = Session::new(node.me.clone(), nonce, nonce);
                node.tell(now);
            }
            Happening::Late(n) => {
                if let Some(plan) = self.nodes[*n].session.poll(self.now) {
                    self.pack(*n, &plan);
                    late.push((1 - n, self.head(*n, &plan)));
                    let now = at(self.now);
                    let session = &mut self.nodes[*n].session;
                    session.failed(plan.ticket, now, Blame::Passing, "time-out");
                } else if let Some((to, head)) = late.pop() {
                    self.deliver(to, &head, &[]);
                }
            }
            Happening::Run(millis) => self.run(Duration::from_millis(*millis)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happened_a_healed_pair_finishes_and_goes_quiet(
        story in prop::collection::vec(happening(), 1..40),
    ) {
        let mut duo = Duo::new();
        let mut late = Vec::new();
        for what in &story {
            duo.happens(what, &mut late);
        }
        for n in 0..2 {
            duo.nodes[n].link_up = true;
            duo.sight(n, true);
        }
        for (to, head) in late {
            duo.deliver(to, &head, &[]);
        }
        duo.run(Duration::from_mins(2));
        prop_assert!(duo.finished(), "{:?}", duo.states());
        prop_assert_eq!(&duo.nodes[0].have, &duo.nodes[1].have);
        duo.mails.clear();
        duo.run(Duration::from_hours(24));
        prop_assert!(duo.mails.is_empty(), "not quiet: {:?}", duo.mails);
    }
}
