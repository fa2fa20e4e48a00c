//! How many connections there may be, altogether and from one address.
//!
//! A full house isn't closed to newcomers while somebody in it does nothing: the connection that
//! has been silent longest, and at least [`SILENT`], is asked to leave. So idle clients, however
//! many, starve nobody, and nobody is cut off in a mail or between two of its commands.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;

/// A connection is idle enough to be closed for another after this long without a byte: longer
/// than an honest client takes between two commands, short enough that newcomers needn't wait.
const SILENT: Duration = Duration::from_millis(250);

/// Everybody who is inside.
pub(super) struct Gate {
    inside: Mutex<Inside>,
    all: usize,
    per_peer: usize,
}

#[derive(Default)]
struct Inside {
    next: u64,
    places: HashMap<u64, Arc<Place>>,
}

/// One connection's place.
pub(super) struct Place {
    peer: IpAddr,
    last_active: AtomicU64,
    busy: AtomicBool,
    leaving: AtomicBool,
    /// Cancelled when the place is wanted for somebody else.
    pub(super) leave: CancellationToken,
}

/// The right to be inside; ends when dropped.
pub(super) struct Pass {
    gate: Arc<Gate>,
    id: u64,
    pub(super) place: Arc<Place>,
}

/// Too many connections: from that address, or else altogether.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full {
    pub(super) per_peer: bool,
}

impl Gate {
    /// Room for `all` connections; from one address for a quarter of it, at least one.
    pub(super) fn new(all: usize) -> Arc<Self> {
        Arc::new(Self {
            inside: Mutex::default(),
            all: all.max(1),
            per_peer: (all / 4).max(1),
        })
    }

    /// Lets `peer` in at `now` (monotonic), if need be in the place of a silent connection.
    pub(super) fn enter(self: &Arc<Self>, peer: IpAddr, now: Duration) -> Result<Pass, Full> {
        let peer = neighbourhood(peer);
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let staying = |p: &&Arc<Place>| !p.leaving.load(Ordering::Relaxed);
        let places = || inside.places.values().filter(staying);
        if places().filter(|p| p.peer == peer).count() >= self.per_peer {
            ask_to_leave(places().filter(|p| p.peer == peer), now)
                .ok_or(Full { per_peer: true })?;
        } else if places().count() >= self.all {
            ask_to_leave(places(), now).ok_or(Full { per_peer: false })?;
        }
        // Those who were asked to leave are gone in a moment; should they not be, this holds.
        if inside.places.len() >= self.all.saturating_mul(2) {
            return Err(Full { per_peer: false });
        }
        let place = Arc::new(Place {
            peer,
            last_active: AtomicU64::new(millis(now)),
            busy: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            leave: CancellationToken::new(),
        });
        let id = inside.next;
        inside.next += 1;
        inside.places.insert(id, Arc::clone(&place));
        Ok(Pass {
            gate: Arc::clone(self),
            id,
            place,
        })
    }
}

impl Place {
    /// Notes a sign of life, and whether a mail is in progress.
    pub(super) fn active(&self, now: Duration, busy: bool) {
        self.last_active.store(millis(now), Ordering::Relaxed);
        self.busy.store(busy, Ordering::Relaxed);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut inside = self
            .gate
            .inside
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        inside.places.remove(&self.id);
    }
}

fn ask_to_leave<'a>(places: impl Iterator<Item = &'a Arc<Place>>, now: Duration) -> Option<()> {
    let oldest = places
        .filter(|p| !p.busy.load(Ordering::Relaxed))
        .min_by_key(|p| p.last_active.load(Ordering::Relaxed))?;
    let silent = millis(now).saturating_sub(oldest.last_active.load(Ordering::Relaxed));
    if silent < millis(SILENT) {
        return None;
    }
    oldest.leaving.store(true, Ordering::Relaxed);
    oldest.leave.cancel();
    Some(())
}

/// An IPv6 client commands a whole /64; an IPv4 one mostly an address.
fn neighbourhood(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(a) => IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() >> 64 << 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_quarter_per_address_and_the_silent_make_room() {
        let gate = Gate::new(8);
        let (a, b) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let first = gate.enter(a, at(0)).ok().unwrap();
        let second = gate.enter(a, at(10)).ok().unwrap();
        assert_eq!(gate.enter(a, at(20)).err(), Some(Full { per_peer: true }));
        assert!(gate.enter(b, at(20)).is_ok());
        // The first is in a mail, so the second goes, once it has been silent long enough.
        first.place.active(at(30), true);
        assert!(gate.enter(a, at(259)).is_err());
        let third = gate.enter(a, at(260)).ok().unwrap();
        assert!(second.place.leave.is_cancelled() && !first.place.leave.is_cancelled());
        drop((first, second, third));
        assert!(gate.enter(a, at(261)).is_ok());
    }

    #[test]
    fn the_house_has_a_limit_of_its_own() {
        let gate = Gate::new(4);
        let peer = |n: u8| IpAddr::from([192, 0, 2, n]);
        let passes: Vec<_> = (0..4)
            .map(|n| gate.enter(peer(n), at(0)).ok().unwrap())
            .collect();
        assert_eq!(
            gate.enter(peer(9), at(249)).err(),
            Some(Full { per_peer: false })
        );
        for pass in &passes {
            pass.place.active(at(600), true);
        }
        assert!(gate.enter(peer(9), at(9000)).is_err(), "all are in a mail");
        assert_eq!(
            neighbourhood("2001:db8::1".parse().unwrap()),
            neighbourhood("2001:db8::2".parse().unwrap())
        );
    }
}
