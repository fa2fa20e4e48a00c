//! An alarm as an SNMP notification: SNMPv2-Trap-PDU or InformRequest-PDU (RFC 3416 sections 4.2.6, 4.2.7) in a
//! message of version 2c (RFC 3417, RFC 1901) or 3 (RFC 3412, RFC 3414). The objects are those of
//! `docs/mib/VMSYNC-MIB.txt`.

use vmsync_config::{Severity, words::UnixMillis};

use super::{
    Authoritative, ENTERPRISE, Facts, LocalKeys, Notice,
    ber::{
        OCTETS, SEQUENCE, TIME_TICKS, UNSIGNED32, integer, list, octets, oid, take, take_integer,
        take_of, tlv, unsigned,
    },
};

const RESPONSE: u8 = 0xa2;
const GET: u8 = 0xa0;
const INFORM: u8 = 0xa6;
const TRAP: u8 = 0xa7;
const REPORT: u8 = 0xa8;
/// `msgFlags` (RFC 3412 section 6.4).
const AUTH: u8 = 1;
const PRIV: u8 = 2;
const REPORTABLE: u8 = 4;
/// `msgSecurityModel` of the user-based model.
const USM: i64 = 3;
/// What we take in a UDP datagram.
const MAX_SIZE: i64 = 65_507;
/// Longest text in a variable, bytes (the MIB's SIZE; a message fits one unfragmented datagram of 1,472).
const TEXT: usize = 800;
const SUBJECT: usize = 200;

/// Whether an answer is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Sent and forgotten.
    Trap,
    /// To be acknowledged.
    Inform,
}

/// What a message says beside the alarm.
#[derive(Debug, Clone, Copy)]
pub struct Sender<'a> {
    /// The node's id.
    pub node: &'a str,
    /// `sysUpTime`, hundredths of a second since the start; wraps.
    pub uptime: u32,
}

/// A user of version 3.
#[derive(Debug, Clone, Copy)]
pub struct User<'a> {
    /// `msgUserName`.
    pub name: &'a str,
    /// Its keys at the authoritative engine.
    pub keys: &'a LocalKeys,
}

/// This node's `snmpEngineID` (RFC 3411, `SnmpEngineID`): enterprise, format 4 (text), the node's id; of a longer id its
/// first 27 characters. Follows from the configuration, so it outlives the disk.
pub fn engine_id(node: &str) -> Vec<u8> {
    let mut id = (0x8000_0000 | ENTERPRISE).to_be_bytes().to_vec();
    id.push(4);
    id.extend(node.bytes().filter(u8::is_ascii_graphic).take(27));
    id
}

/// `snmpEngineBoots` of a start at `now`, when the last start had `last`: one more, and never fewer than the minutes
/// since 2020, so that a node whose disk was replaced or restored isn't taken for a replay of itself.
pub fn boots(last: Option<u32>, now: UnixMillis) -> u32 {
    const YEAR_2020: u64 = 1_577_836_800;
    let minutes = (now.0 / 1000).saturating_sub(YEAR_2020) / 60;
    let minutes = u32::try_from(minutes).unwrap_or(0);
    let next = last.map_or(1, |last| last.saturating_add(1));
    // RFC 3414 section 2.2.2: at its end it stays.
    next.max(minutes).min(i32::MAX.cast_unsigned())
}

/// A message of version 2c. `None` of an event.
pub fn v2c(
    notice: &Notice,
    kind: Kind,
    community: &str,
    request: i32,
    sender: Sender<'_>,
) -> Option<Vec<u8>> {
    Some(list(
        SEQUENCE,
        &[
            integer(1),
            octets(community.as_bytes()),
            pdu(notice, kind, request, sender)?,
        ],
    ))
}

/// A message of version 3, authenticated, and encrypted where the user has a key for it. `salt` must never be used
/// twice with one key and one `boots` and `time`. `None` of an event.
pub fn v3(
    notice: &Notice,
    kind: Kind,
    user: User<'_>,
    engine: &Authoritative,
    request: i32,
    salt: u64,
    sender: Sender<'_>,
) -> Option<Vec<u8>> {
    let pdu = pdu(notice, kind, request, sender)?;
    let reportable = if kind == Kind::Inform { REPORTABLE } else { 0 };
    sealed(
        &scoped(&engine.engine_id, pdu),
        reportable,
        user,
        engine,
        request,
        salt,
    )
}

/// Asks an engine who it is (RFC 3414 section 4): its answer is a report that [`discovered`] reads.
pub fn discovery(request: i32) -> Vec<u8> {
    let nothing = list(
        GET,
        &[
            integer(request.into()),
            integer(0),
            integer(0),
            list(SEQUENCE, &[]),
        ],
    );
    let security = security(&[], 0, 0, "", &[], &[]);
    whole(request, REPORTABLE, &security, scoped(&[], nothing))
}

/// Who an engine says it is. Not authenticated: what is sent by it is refused where it was a lie.
pub fn discovered(answer: &[u8]) -> Option<Authoritative> {
    Some(Opened::of(answer)?.engine).filter(|e| (5..=32).contains(&e.engine_id.len()))
}

/// What a receiver answers to an inform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// It has it.
    Acknowledged,
    /// It refuses it: `error-status`, or -1 of a report (unknown user, wrong digest, not in the time window, …).
    Refused(i64),
    /// Not an answer to this one.
    Other,
}

/// Whether an `error-status` is the notice's own doing, and the same next time: all but a receiver that lacks
/// resources (13) or does not let this sender in (16), and reports (-1).
pub fn refuses_for_good(error_status: i64) -> bool {
    error_status > 0 && !matches!(error_status, 13 | 16)
}

/// Reads an answer to inform `request` of version 2c.
pub fn reply_v2c(answer: &[u8], request: i32) -> Reply {
    let read = || {
        let mut answer = answer;
        let mut inside = take_of(&mut answer, SEQUENCE)?;
        take_integer(&mut inside)?;
        take_of(&mut inside, OCTETS)?;
        reply(inside, request)
    };
    read().unwrap_or(Reply::Other)
}

/// Reads an answer to inform `request` of version 3; one that is not the user's is none.
pub fn reply_v3(answer: &[u8], request: i32, user: User<'_>) -> Reply {
    let read = || {
        let opened = Opened::of(answer)?;
        if opened.flags & AUTH == 0 {
            // A report about what can't be authenticated isn't either.
            return Some(if opened.is_report() {
                Reply::Refused(-1)
            } else {
                Reply::Other
            });
        }
        if !opened.is_from(answer, user) {
            return Some(Reply::Other);
        }
        let mut scoped = opened.scoped(user)?;
        let mut whole: &[u8] = &scoped;
        let mut inside = take_of(&mut whole, SEQUENCE)?;
        take_of(&mut inside, OCTETS)?;
        take_of(&mut inside, OCTETS)?;
        let reply = reply(inside, request);
        scoped.clear();
        reply
    };
    read().unwrap_or(Reply::Other)
}

fn reply(mut pdu: &[u8], request: i32) -> Option<Reply> {
    let (tag, mut inside) = take(&mut pdu)?;
    let number = take_integer(&mut inside)?;
    let error = take_integer(&mut inside)?;
    Some(match tag {
        REPORT => Reply::Refused(-1),
        RESPONSE if number != i64::from(request) => Reply::Other,
        RESPONSE if error == 0 => Reply::Acknowledged,
        RESPONSE => Reply::Refused(error),
        _ => Reply::Other,
    })
}

fn pdu(notice: &Notice, kind: Kind, request: i32, sender: Sender<'_>) -> Option<Vec<u8>> {
    let facts = notice.facts()?;
    let tag = match kind {
        Kind::Trap => TRAP,
        Kind::Inform => INFORM,
    };
    let variables = list(SEQUENCE, &variables(notice, facts, sender));
    Some(list(
        tag,
        &[integer(request.into()), integer(0), integer(0), variables],
    ))
}

/// `vmsyncMIB` and below it.
fn vmsync(below: &[u32]) -> Vec<u8> {
    let base = [1, 3, 6, 1, 4, 1, ENTERPRISE, 1];
    oid(&[&base, below].concat())
}

fn variables(notice: &Notice, facts: &Facts, sender: Sender<'_>) -> Vec<Vec<u8>> {
    const SYS_UP_TIME: [u32; 9] = [1, 3, 6, 1, 2, 1, 1, 3, 0];
    const SNMP_TRAP_OID: [u32; 11] = [1, 3, 6, 1, 6, 3, 1, 1, 4, 1, 0];
    let bind = |name: Vec<u8>, value: Vec<u8>| list(SEQUENCE, &[name, value]);
    let word = match notice.word() {
        "raised" => 1,
        "cleared" => 2,
        _ => 3,
    };
    let severity = match facts.severity {
        Severity::Critical => 1,
        Severity::Error => 2,
        Severity::Warning => 3,
        Severity::Notice => 4,
    };
    let number = u32::try_from(facts.number).unwrap_or(u32::MAX);
    let objects = [
        unsigned(UNSIGNED32, number),
        octets(cut(&facts.code, 64)),
        octets(cut(&facts.subject, SUBJECT)),
        octets(cut(&facts.text, TEXT)),
        integer(severity),
        octets(&date_and_time(facts.since)),
        octets(&date_and_time(notice.at)),
        octets(cut(sender.node, 64)),
    ];
    let mut out = vec![
        bind(oid(&SYS_UP_TIME), unsigned(TIME_TICKS, sender.uptime)),
        bind(oid(&SNMP_TRAP_OID), vmsync(&[0, word])),
    ];
    let named = (1..)
        .zip(objects)
        .map(|(n, value)| bind(vmsync(&[1, n, 0]), value));
    out.extend(named);
    out
}

/// As many whole characters as fit.
fn cut(text: &str, most: usize) -> &[u8] {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.as_bytes().get(..end).unwrap_or_default()
}

/// `DateAndTime` in UTC (RFC 2579 section 2).
fn date_and_time(at: UnixMillis) -> Vec<u8> {
    let time = i64::try_from(at.0)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let Some(time) = time.map(|t| t.to_zoned(jiff::tz::TimeZone::UTC)) else {
        return vec![0; 8];
    };
    let byte = |n: i8| u8::try_from(n).unwrap_or(0);
    let year = u16::try_from(time.year()).unwrap_or(0).to_be_bytes();
    let tenths = u8::try_from(time.millisecond() / 100).unwrap_or(0);
    vec![
        year[0],
        year[1],
        byte(time.month()),
        byte(time.day()),
        byte(time.hour()),
        byte(time.minute()),
        byte(time.second()),
        tenths,
        b'+',
        0,
        0,
    ]
}

fn scoped(engine_id: &[u8], pdu: Vec<u8>) -> Vec<u8> {
    list(SEQUENCE, &[octets(engine_id), octets(&[]), pdu])
}

/// `UsmSecurityParameters` (RFC 3414 section 2.4).
fn security(
    engine_id: &[u8],
    boots: u32,
    time: u32,
    user: &str,
    mac: &[u8],
    salt: &[u8],
) -> Vec<u8> {
    list(
        SEQUENCE,
        &[
            octets(engine_id),
            integer(boots.into()),
            integer(time.into()),
            octets(user.as_bytes()),
            octets(mac),
            octets(salt),
        ],
    )
}

/// `SNMPv3Message` (RFC 3412 section 6).
fn whole(id: i32, flags: u8, security: &[u8], data: Vec<u8>) -> Vec<u8> {
    let head = [
        integer(id.into()),
        integer(MAX_SIZE),
        octets(&[flags]),
        integer(USM),
    ];
    list(
        SEQUENCE,
        &[integer(3), list(SEQUENCE, &head), octets(security), data],
    )
}

fn sealed(
    scoped: &[u8],
    flags: u8,
    user: User<'_>,
    engine: &Authoritative,
    request: i32,
    salt: u64,
) -> Option<Vec<u8>> {
    let keys = user.keys;
    let private = keys.is_private();
    let salt = salt.to_be_bytes();
    let (data, salt): (_, &[u8]) = if private {
        let mut bytes = scoped.to_vec();
        keys.encrypt(engine, salt, &mut bytes)?;
        (octets(&bytes), &salt)
    } else {
        (scoped.to_vec(), &[])
    };
    let flags = flags | AUTH | if private { PRIV } else { 0 };
    let Authoritative {
        engine_id,
        boots,
        time,
    } = engine;
    let write = |mac: &[u8]| {
        let security = security(engine_id, *boots, *time, user.name, mac, salt);
        whole(request, flags, &security, data.clone())
    };
    // Authenticated is the whole message with zeros where the result goes (RFC 3414 section 6.3.1).
    let mac = keys.mac(&write(&keys.no_mac()));
    Some(write(&mac))
}

/// A message of version 3, taken apart.
struct Opened<'b> {
    flags: u8,
    engine: Authoritative,
    user: &'b [u8],
    mac: &'b [u8],
    salt: &'b [u8],
    data: (u8, &'b [u8]),
}

impl<'b> Opened<'b> {
    fn of(mut message: &'b [u8]) -> Option<Self> {
        let mut inside = take_of(&mut message, SEQUENCE)?;
        if take_integer(&mut inside)? != 3 {
            return None;
        }
        let mut head = take_of(&mut inside, SEQUENCE)?;
        take_integer(&mut head)?;
        take_integer(&mut head)?;
        let flags = *take_of(&mut head, OCTETS)?.first()?;
        let mut security = take_of(&mut inside, OCTETS)?;
        let mut security = take_of(&mut security, SEQUENCE)?;
        let engine_id = take_of(&mut security, OCTETS)?.to_vec();
        let boots = u32::try_from(take_integer(&mut security)?).ok()?;
        let time = u32::try_from(take_integer(&mut security)?).ok()?;
        Some(Self {
            flags,
            engine: Authoritative {
                engine_id,
                boots,
                time,
            },
            user: take_of(&mut security, OCTETS)?,
            mac: take_of(&mut security, OCTETS)?,
            salt: take_of(&mut security, OCTETS)?,
            data: take(&mut inside)?,
        })
    }

    fn is_report(&self) -> bool {
        let (SEQUENCE, mut scoped) = self.data else {
            return false;
        };
        let rest = take_of(&mut scoped, OCTETS).and_then(|_| take_of(&mut scoped, OCTETS));
        rest.and_then(|_| take(&mut scoped))
            .is_some_and(|(tag, _)| tag == REPORT)
    }

    fn is_from(&self, message: &[u8], user: User<'_>) -> bool {
        if self.mac.is_empty() || self.user != user.name.as_bytes() {
            return false;
        }
        // Where it stands in the message, so that zeros can be put there.
        let place = self
            .mac
            .as_ptr()
            .addr()
            .wrapping_sub(message.as_ptr().addr());
        let mut zeroed = message.to_vec();
        let Some(there) = zeroed.get_mut(place..place.saturating_add(self.mac.len())) else {
            return false;
        };
        there.fill(0);
        user.keys.is_mac(&zeroed, self.mac)
    }

    fn scoped(&self, user: User<'_>) -> Option<Vec<u8>> {
        match self.data {
            (OCTETS, bytes) if self.flags & PRIV != 0 => {
                let mut bytes = bytes.to_vec();
                let salt = self.salt.try_into().ok()?;
                user.keys.decrypt(&self.engine, salt, &mut bytes)?;
                Some(bytes)
            }
            (SEQUENCE, content) => Some(tlv(SEQUENCE, content)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
