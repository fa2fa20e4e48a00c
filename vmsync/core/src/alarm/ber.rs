//! The little of ASN.1's basic encoding rules (X.690) that SNMP needs, by hand: these bytes are kept as
//! examples, and a general library would be larger than what it replaces (docs/decisions/0016-alarm-channels.md).

/// Universal and SNMP's own tags (RFC 3416 section 3).
const INTEGER: u8 = 0x02;
pub(super) const OCTETS: u8 = 0x04;
const OID: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const UNSIGNED32: u8 = 0x42;
pub(super) const TIME_TICKS: u8 = 0x43;

/// Tag, length, content.
pub(super) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 6);
    out.push(tag);
    match u8::try_from(content.len()) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let length = content.len().to_be_bytes();
            let zeros = length.iter().take_while(|b| **b == 0).count();
            let bytes = &length[zeros..];
            #[allow(clippy::cast_possible_truncation, reason = "at most 8")]
            out.push(0x80 | bytes.len() as u8);
            out.extend_from_slice(bytes);
        }
    }
    out.extend_from_slice(content);
    out
}

/// A constructed value of `parts`.
pub(super) fn list(tag: u8, parts: &[Vec<u8>]) -> Vec<u8> {
    tlv(tag, &parts.concat())
}

/// INTEGER in as few bytes as hold it.
pub(super) fn integer(value: i64) -> Vec<u8> {
    number(INTEGER, value)
}

/// Unsigned32 or TimeTicks.
pub(super) fn unsigned(tag: u8, value: u32) -> Vec<u8> {
    number(tag, i64::from(value))
}

fn number(tag: u8, value: i64) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    // A leading byte says nothing where it only repeats the sign of the next.
    let sign_only = |w: &[u8]| {
        matches!(w, [0x00, next] if next & 0x80 == 0)
            || matches!(w, [0xff, next] if next & 0x80 != 0)
    };
    let skip = bytes.windows(2).take_while(|w| sign_only(w)).count();
    tlv(tag, &bytes[skip..])
}

/// OCTET STRING.
pub(super) fn octets(bytes: &[u8]) -> Vec<u8> {
    tlv(OCTETS, bytes)
}

/// OBJECT IDENTIFIER; of at least two arcs, the first below 3.
pub(super) fn oid(arcs: &[u32]) -> Vec<u8> {
    let (first, rest) = match arcs {
        [a, b, rest @ ..] => (a.saturating_mul(40).saturating_add(*b), rest),
        _ => (0, &[][..]),
    };
    let mut out = Vec::with_capacity(16);
    for arc in std::iter::once(first).chain(rest.iter().copied()) {
        for shift in (1..5).rev().map(|n| n * 7) {
            if arc >> shift != 0 {
                out.push(0x80 | u8::try_from(arc >> shift & 0x7f).unwrap_or(0));
            }
        }
        out.push(u8::try_from(arc & 0x7f).unwrap_or(0));
    }
    tlv(OID, &out)
}

/// Takes the first value off `bytes`: its tag and content. `None` where there is no whole one.
pub(super) fn take<'b>(bytes: &mut &'b [u8]) -> Option<(u8, &'b [u8])> {
    let [tag, first, rest @ ..] = *bytes else {
        return None;
    };
    let (length, rest) = match usize::from(*first) {
        short @ 0..=0x7f => (short, rest),
        // Four bytes of length are more than a datagram holds.
        long @ 0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(long & 0x0f)?;
            let length = length.iter().fold(0_usize, |n, b| n << 8 | usize::from(*b));
            (length, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    *bytes = rest;
    Some((*tag, content))
}

/// Takes a value of `tag`.
pub(super) fn take_of<'b>(bytes: &mut &'b [u8], tag: u8) -> Option<&'b [u8]> {
    take(bytes)
        .filter(|(found, _)| *found == tag)
        .map(|(_, content)| content)
}

/// Takes an INTEGER of at most 8 bytes.
pub(super) fn take_integer(bytes: &mut &[u8]) -> Option<i64> {
    let content = take_of(bytes, INTEGER)?;
    let first = *content.first().filter(|_| content.len() <= 8)?;
    let sign = if first & 0x80 == 0 { 0 } else { -1 };
    Some(content.iter().fold(sign, |n, b| n << 8 | i64::from(*b)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// X.690 sections 8.1.3, 8.3, 8.19.
    #[test]
    fn values_as_x690_writes_them() {
        assert_eq!(integer(0), [2, 1, 0]);
        assert_eq!(integer(127), [2, 1, 0x7f]);
        assert_eq!(integer(128), [2, 2, 0, 0x80]);
        assert_eq!(integer(-128), [2, 1, 0x80]);
        assert_eq!(integer(-129), [2, 2, 0xff, 0x7f]);
        assert_eq!(
            unsigned(UNSIGNED32, u32::MAX),
            [0x42, 5, 0, 255, 255, 255, 255]
        );
        assert_eq!(
            oid(&[1, 3, 6, 1, 4, 1, 32_473]),
            [6, 8, 0x2b, 6, 1, 4, 1, 0x81, 0xfd, 0x59]
        );
        assert_eq!(oid(&[2, 999, 3]), [6, 3, 0x88, 0x37, 3]);
        assert_eq!(octets(&[7; 200])[..3], [4, 0x81, 200]);
        assert_eq!(octets(&[7; 300])[..4], [4, 0x82, 1, 44]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(value: i64, bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let whole = list(SEQUENCE, &[integer(value), octets(&bytes)]);
            let mut rest = whole.as_slice();
            let mut inside = take_of(&mut rest, SEQUENCE).unwrap();
            prop_assert_eq!(take_integer(&mut inside), Some(value));
            prop_assert_eq!(take_of(&mut inside, OCTETS), Some(bytes.as_slice()));
            prop_assert!(rest.is_empty() && inside.is_empty());
            for cut in 0..whole.len() {
                prop_assert_eq!(take(&mut &whole[..cut]), None);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut rest = bytes.as_slice();
            while take(&mut rest).is_some() {}
            let _ = take_integer(&mut bytes.as_slice());
        }
    }
}
