//! How many connections there may be, altogether and from one address.
//!
//! A full house isn't closed to newcomers while somebody in it does nothing: the connection that
//! has been silent longest, and at least [`SILENT`], is asked to leave. So idle clients, however
//! many, starve nobody, and nobody is cut off in a mail or between two of its commands.
//!
//! A few more are kept for the peer, so that replication goes on whatever PBXs do. Who finds the house
//! full gets one of them until he begins a mail: by then he has shown the peer's certificate, or is sent
//! away. Half of them are for the address that the peer was last seen at; of the others an address has
//! one at most.

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

/// Places kept for the peer at the address it was last seen at, and as many for whoever may be the peer.
const PEER_PLACES: usize = 2;

/// Everybody who is inside.
pub(super) struct Gate {
    inside: Mutex<Inside>,
    all: usize,
    per_peer: usize,
    for_the_peer: usize,
}

#[derive(Default)]
struct Inside {
    next: u64,
    places: HashMap<u64, Arc<Place>>,
    /// Where the peer was last seen.
    known: Option<IpAddr>,
}

/// One connection's place.
pub(super) struct Place {
    /// The client's address; of an IPv6 one its /64.
    pub(super) peer: IpAddr,
    /// Whether it is one of those kept for the peer.
    extra: bool,
    last_active: AtomicU64,
    busy: AtomicBool,
    /// Whether the client has shown to be the peer.
    is_peer: AtomicBool,
    leaving: AtomicBool,
    /// Cancelled when the place is wanted for somebody else.
    pub(super) leave: CancellationToken,
}

/// The right to be inside; ends when dropped.
pub(super) struct Pass {
    gate: Arc<Gate>,
    id: u64,
    pub(super) place: Arc<Place>,
    /// Some: only the peer may stay, for this reason.
    pub(super) only_for_the_peer: Option<Full>,
}

/// Too many connections: from that address, or else altogether.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full {
    pub(super) per_peer: bool,
}

impl Gate {
    /// Room for `all` connections; from one address for a quarter of it, at least one. With `proof`
    /// there are places for a peer that shows its certificate.
    pub(super) fn new(all: usize, proof: bool) -> Arc<Self> {
        Arc::new(Self {
            inside: Mutex::default(),
            all: all.max(1),
            per_peer: (all / 4).max(1),
            for_the_peer: if proof { PEER_PLACES } else { 0 },
        })
    }

    /// Lets `peer` in at `now` (monotonic), if need be in the place of a silent connection.
    pub(super) fn enter(self: &Arc<Self>, peer: IpAddr, now: Duration) -> Result<Pass, Full> {
        let peer = neighbourhood(peer);
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let only_for_the_peer = match self.ordinary(&inside, peer, now) {
            Ok(()) => None,
            Err(full) if self.extra(&inside, peer, now) => Some(full),
            Err(full) => return Err(full),
        };
        // Those who were asked to leave are gone in a moment; should they not be, this holds.
        if inside.places.len() >= self.all.saturating_mul(2) + 4 * self.for_the_peer {
            return Err(Full { per_peer: false });
        }
        let place = Arc::new(Place {
            peer,
            extra: only_for_the_peer.is_some(),
            last_active: AtomicU64::new(millis(now)),
            busy: AtomicBool::new(false),
            is_peer: AtomicBool::new(false),
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
            only_for_the_peer,
        })
    }

    fn ordinary(&self, inside: &Inside, peer: IpAddr, now: Duration) -> Result<(), Full> {
        let places = || inside.staying(false);
        if places().filter(|p| p.peer == peer).count() >= self.per_peer {
            ask_to_leave(places().filter(|p| p.peer == peer), now).ok_or(Full { per_peer: true })
        } else if places().count() >= self.all {
            ask_to_leave(places(), now).ok_or(Full { per_peer: false })
        } else {
            Ok(())
        }
    }

    fn extra(&self, inside: &Inside, peer: IpAddr, now: Duration) -> bool {
        let known = inside.known == Some(peer);
        let places = || {
            let half = inside.staying(true);
            half.filter(|p| (inside.known == Some(p.peer)) == known)
        };
        if self.for_the_peer == 0 {
            return false;
        }
        if !known && places().any(|p| p.peer == peer) {
            return ask_to_leave(places().filter(|p| p.peer == peer), now).is_some();
        }
        places().count() < self.for_the_peer || ask_to_leave(places(), now).is_some()
    }

    /// The client in `place` has shown to be the peer.
    pub(super) fn is_the_peer(&self, place: &Place) {
        place.is_peer.store(true, Ordering::Relaxed);
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        inside.known = Some(place.peer);
    }
}

impl Inside {
    /// Who is inside, in the ordinary places or the extra ones, and hasn't been asked to leave.
    fn staying(&self, extra: bool) -> impl Iterator<Item = &Arc<Place>> {
        self.places
            .values()
            .filter(move |p| p.extra == extra && !p.leaving.load(Ordering::Relaxed))
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
        .min_by_key(|p| {
            // The peer is the last to go.
            let last_active = p.last_active.load(Ordering::Relaxed);
            (p.is_peer.load(Ordering::Relaxed), last_active)
        })?;
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
        let gate = Gate::new(8, false);
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
        let gate = Gate::new(4, false);
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

    #[test]
    fn a_full_house_has_places_for_the_peer() {
        let gate = Gate::new(4, true);
        let peer = |n: u8| IpAddr::from([192, 0, 2, n]);
        let pbx = gate.enter(peer(1), at(0)).ok().unwrap();
        pbx.place.active(at(0), true);
        // Its second connection is one too many, and may only stay as the peer's; there is no third.
        let second = gate.enter(peer(1), at(0)).ok().unwrap();
        assert_eq!(second.only_for_the_peer, Some(Full { per_peer: true }));
        assert_eq!(
            gate.enter(peer(1), at(9)).err(),
            Some(Full { per_peer: true })
        );
        let others: Vec<_> = (2..5)
            .map(|n| gate.enter(peer(n), at(0)).ok().unwrap())
            .collect();
        for other in &others {
            other.place.active(at(0), true);
        }
        let vmpro2 = gate.enter(peer(9), at(10)).ok().unwrap();
        assert_eq!(vmpro2.only_for_the_peer, Some(Full { per_peer: false }));
        assert!(
            gate.enter(peer(8), at(10)).is_err(),
            "two strangers are enough"
        );
        // Once it has shown its certificate, its address finds a place whatever strangers do.
        gate.is_the_peer(&vmpro2.place);
        let again = gate.enter(peer(9), at(11)).ok().unwrap();
        assert!(again.only_for_the_peer.is_some());
        // One stranger is left; with another there are two again, of whom the silent makes room.
        let eighth = gate.enter(peer(8), at(200)).ok().unwrap();
        let seventh = gate.enter(peer(7), at(260)).ok().unwrap();
        assert!(second.place.leave.is_cancelled());
        assert!(
            ![&vmpro2, &again, &eighth, &seventh]
                .map(|p| p.place.leave.is_cancelled())
                .contains(&true)
        );
    }
}
