//! From whom a mail is (R-SY-3).

use vmsync_config::words::Extension;

/// The sender of a mail: as configured; blank, the mailbox user's own address where set, else the
/// best name known for it at the node's mail domain: the user's name where it can stand in an
/// address, else the extension.
///
/// It is the envelope's sender too. So a server that can't deliver after all tells whoever reads
/// that address: with a blank sender the user, whose message stays in the mailbox or among the
/// deleted.
pub fn sender(
    configured: Option<&str>,
    email: Option<&str>,
    name: &str,
    extension: &Extension,
    domain: &str,
) -> String {
    let set = |address: Option<&str>| address.filter(|a| !a.is_empty()).map(str::to_owned);
    set(configured).or_else(|| set(email)).unwrap_or_else(|| {
        let local = local_part(name);
        let local = local.as_deref().unwrap_or(extension.as_str());
        format!("{local}@{domain}")
    })
}

/// `Anna Berg` as `anna.berg`; `None` for a name that would be mangled.
fn local_part(name: &str) -> Option<String> {
    if !name.is_ascii() {
        return None;
    }
    let words = name
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|w| !w.is_empty());
    let local = words.collect::<Vec<_>>().join(".").to_ascii_lowercase();
    (1..=64).contains(&local.len()).then_some(local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blank_sender_is_the_users_own_address_or_his_best_name() {
        let rows = [
            (
                Some("voicemail@x.example"),
                Some("anna@y.example"),
                "Anna Berg",
                "voicemail@x.example",
            ),
            (None, Some("anna@y.example"), "Anna Berg", "anna@y.example"),
            (
                Some(""),
                Some("anna@y.example"),
                "Anna Berg",
                "anna@y.example",
            ),
            (None, None, "Anna Berg", "anna.berg@node.example"),
            (
                None,
                None,
                "  O'Brien, Pat (Sales) ",
                "o.brien.pat.sales@node.example",
            ),
            (None, None, "Zoë", "2001@node.example"),
            (None, None, "", "2001@node.example"),
            (None, None, "@\r\n<>", "2001@node.example"),
        ];
        let extension: Extension = "2001".parse().unwrap();
        for (configured, email, name, expected) in rows {
            let found = sender(configured, email, name, &extension, "node.example");
            assert_eq!(found, expected, "{configured:?} {email:?} {name:?}");
        }
        let long = "x".repeat(65);
        let found = sender(None, None, &long, &extension, "node.example");
        assert_eq!(found, "2001@node.example");
    }
}
