//! Host names and domains.

use std::net::IpAddr;

use crate::words::Fqdn;

/// Whether `host` is this machine seen from itself: `localhost` and its kin (RFC 6761 section
/// 6.3), a loopback or unspecified address in any spelling, with or without brackets.
pub(super) fn is_loopback(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let name = matches!(
        host.as_str(),
        "localhost"
            | "localhost.localdomain"
            | "localhost4"
            | "localhost6"
            | "ip6-localhost"
            | "ip6-loopback"
    );
    name || host.ends_with(".localhost") || address(&host).is_some_and(is_own)
}

/// The address that `host` spells, also as `127.1` or `[::1]`.
fn address(host: &str) -> Option<IpAddr> {
    if let Ok(address) = host.parse() {
        return Some(address);
    }
    match url::Host::parse(host) {
        Ok(url::Host::Ipv4(v4)) => Some(v4.into()),
        Ok(url::Host::Ipv6(v6)) => Some(v6.into()),
        Ok(url::Host::Domain(_)) | Err(_) => None,
    }
}

fn is_own(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address.is_loopback() || address.is_unspecified()
}

/// Whether `name` is a host name or mail domain: labels of letters, digits and inner hyphens
/// (RFC 1123 section 2.1), at most 253 characters.
pub(super) fn is_domain(name: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// Whether `host` is a host name or an address.
pub(super) fn is_host(host: &str) -> bool {
    address(host).is_some() || is_domain(host)
}

/// The DNS domain a node is in: its name without the first label.
pub(super) fn parent(fqdn: &Fqdn) -> &str {
    fqdn.as_str().split_once('.').map_or("", |(_, rest)| rest)
}

/// The first label of a node's name.
pub(super) fn first_label(fqdn: &Fqdn) -> &str {
    fqdn.as_str().split_once('.').map_or("", |(first, _)| first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_this_machine() {
        for own in [
            "localhost",
            "LOCALHOST",
            "localhost.",
            "vm.localhost",
            "127.0.0.1",
            "127.9.9.9",
            "127.1",
            "0x7f000001",
            "::1",
            "[::1]",
            "::ffff:127.0.0.1",
            "0.0.0.0",
            "[::]",
            "localhost.localdomain",
        ] {
            assert!(is_loopback(own), "{own}");
        }
        for other in [
            "vmpro1.example.com",
            "192.0.2.1",
            "2001:db8::1",
            "localhosting.example",
            "",
        ] {
            assert!(!is_loopback(other), "{other}");
        }
    }

    #[test]
    fn host_names_and_addresses() {
        for host in [
            "mail",
            "mail.example.com",
            "192.0.2.1",
            "2001:db8::1",
            "[2001:db8::1]",
        ] {
            assert!(is_host(host), "{host}");
        }
        for wrong in [
            "",
            "two words",
            "-a.example",
            "mail.example.com:25",
            "a..b",
            "ex_ample",
        ] {
            assert!(!is_host(wrong), "{wrong}");
        }
    }
}
