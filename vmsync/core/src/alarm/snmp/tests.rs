use uuid::Uuid;
use vmsync_config::SnmpAuth;

use super::*;
use crate::alarm::What;

fn notice(text: &str) -> Notice {
    Notice {
        id: Uuid::nil(),
        at: UnixMillis(1_066_000_455_303),
        what: What::Raised(Facts {
            number: 300,
            code: "disk_full".to_owned(),
            subject: "vmpro1".to_owned(),
            text: text.to_owned(),
            severity: Severity::Critical,
            since: UnixMillis(1_066_000_455_003),
        }),
    }
}

const SENDER: Sender<'_> = Sender {
    node: "vmpro1",
    uptime: 4711,
};

fn engine() -> Authoritative {
    Authoritative {
        engine_id: engine_id("vmpro1"),
        boots: 3,
        time: 77,
    }
}

fn keys(private: Option<&str>) -> LocalKeys {
    LocalKeys::new(
        SnmpAuth::Sha256,
        "auth-password",
        private,
        &engine_id("vmpro1"),
    )
    .unwrap()
}

/// As another encoder writes it (RFC 3416 section 4.2.6: sysUpTime.0, snmpTrapOID.0, then the objects).
#[test]
fn a_trap_of_version_2c_byte_for_byte() {
    let bytes = v2c(&notice("no space"), Kind::Trap, "public", 1, SENDER).unwrap();
    assert_eq!(hex::encode(bytes), GOLDEN);
}

const GOLDEN: &str = "3082010b02010104067075626c6963a781fd0201010201000201003081f1300e06082b06010201010300430212673019060a2b060106030101040100060b2b0601040181fd590100013012060c2b0601040181fd59010101004202012c3019060c2b0601040181fd590101020004096469736b5f66756c6c3016060c2b0601040181fd59010103000406766d70726f313018060c2b0601040181fd590101040004086e6f2073706163653011060c2b0601040181fd5901010500020101301b060c2b0601040181fd5901010600040b07d30a0c170e0f002b0000301b060c2b0601040181fd5901010700040b07d30a0c170e0f032b00003016060c2b0601040181fd59010108000406766d70726f31";

#[test]
fn the_engine_is_known_before_the_first_start() {
    assert_eq!(hex::encode(engine_id("vmpro1")), "80007ed904766d70726f31");
    assert!(engine_id(&"x".repeat(63)).len() <= 32);
}

#[test]
fn boots_grow_and_outlive_the_disk() {
    let now = UnixMillis(1_577_836_800_000 + 10 * 60_000);
    assert_eq!(boots(None, now), 10);
    assert_eq!(boots(Some(9), now), 10);
    assert_eq!(boots(Some(10), now), 11);
    assert_eq!(boots(None, UnixMillis(0)), 1);
    assert_eq!(boots(Some(u32::MAX), now), 0x7fff_ffff);
}

/// What a receiver does, with this crate's own reader.
#[test]
fn a_trap_of_version_3_can_be_opened_by_its_user_alone() {
    let (keys, engine) = (keys(Some("priv-password")), engine());
    let user = User {
        name: "ops",
        keys: &keys,
    };
    let bytes = v3(
        &notice("no space"),
        Kind::Trap,
        user,
        &engine,
        5,
        99,
        SENDER,
    )
    .unwrap();
    let opened = Opened::of(&bytes).unwrap();
    assert_eq!((opened.flags, &opened.engine), (AUTH | PRIV, &engine));
    assert!(opened.is_from(&bytes, user));
    let scoped = opened.scoped(user).unwrap();
    let mut plain: &[u8] = &scoped;
    let mut inside = take_of(&mut plain, SEQUENCE).unwrap();
    assert_eq!(take_of(&mut inside, OCTETS).unwrap(), engine.engine_id);
    take_of(&mut inside, OCTETS).unwrap();
    assert_eq!(
        inside,
        pdu(&notice("no space"), Kind::Trap, 5, SENDER).unwrap()
    );
    // One bit anywhere spoils it.
    for place in 0..bytes.len() {
        let mut wrong = bytes.clone();
        wrong[place] ^= 1;
        let is = Opened::of(&wrong).is_some_and(|o| o.is_from(&wrong, user));
        assert!(!is, "byte {place}");
    }
}

#[test]
fn answers_to_informs() {
    let answer = |request, error| {
        let pdu = list(
            RESPONSE,
            &[
                integer(request),
                integer(error),
                integer(0),
                list(SEQUENCE, &[]),
            ],
        );
        list(SEQUENCE, &[integer(1), octets(b"public"), pdu])
    };
    assert_eq!(reply_v2c(&answer(7, 0), 7), Reply::Acknowledged);
    assert_eq!(reply_v2c(&answer(8, 0), 7), Reply::Other);
    assert_eq!(reply_v2c(&answer(7, 5), 7), Reply::Refused(5));
    assert_eq!(reply_v2c(b"\x30\x03", 7), Reply::Other);
    // tooBig, genErr, wrongType; a report, resourceUnavailable, authorizationError.
    assert!([1, 5, 7].into_iter().all(refuses_for_good));
    assert!(![-1, 13, 16].into_iter().any(refuses_for_good));

    let (keys, engine) = (keys(Some("priv-password")), engine());
    let user = User {
        name: "ops",
        keys: &keys,
    };
    let pdu = list(
        RESPONSE,
        &[integer(7), integer(0), integer(0), list(SEQUENCE, &[])],
    );
    let inside = scoped(&engine.engine_id, pdu.clone());
    let signed = sealed(&inside, 0, user, &engine, 7, 1).unwrap();
    assert_eq!(reply_v3(&signed, 7, user), Reply::Acknowledged);
    let stranger = User {
        name: "else",
        keys: &keys,
    };
    assert_eq!(reply_v3(&signed, 7, stranger), Reply::Other);
    // Anybody could have written that.
    let open = whole(
        7,
        0,
        &security(&engine.engine_id, 1, 1, "ops", &[], &[]),
        inside,
    );
    assert_eq!(reply_v3(&open, 7, user), Reply::Other);
    let report = list(
        REPORT,
        &[integer(0), integer(0), integer(0), list(SEQUENCE, &[])],
    );
    let report = whole(
        7,
        0,
        &security(&engine.engine_id, 4, 9, "", &[], &[]),
        scoped(&engine.engine_id, report),
    );
    assert_eq!(reply_v3(&report, 7, user), Reply::Refused(-1));
    assert_eq!(discovered(&report).map(|e| (e.boots, e.time)), Some((4, 9)));
    assert_eq!(discovered(b"nonsense"), None);
}

#[test]
fn a_long_text_is_cut_at_a_character() {
    let long = v2c(&notice(&"ü".repeat(5000)), Kind::Trap, "public", 1, SENDER).unwrap();
    assert!(
        long.len() < 1_472,
        "one datagram that is not fragmented: {}",
        long.len()
    );
    assert_eq!(cut("aü", 2), b"a");
}

#[test]
fn an_event_is_no_notification() {
    let event = Notice::event(Uuid::nil(), UnixMillis(0), "phase", None, 1.into());
    assert_eq!(v2c(&event, Kind::Trap, "public", 1, SENDER), None);
}
