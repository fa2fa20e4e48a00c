//! The pair's key is changed while the pair runs, as docs/synchronisation.md tells it: at no step do
//! the nodes stop understanding one another, and a node left with the old key alone is shut out.

#![allow(clippy::unwrap_used, reason = "a test says what failed by panicking")]

use std::fs;

use vmsync_tests::pair::{Node, ONE, Pair, TWO};

/// The node's own key file, so that the two can differ.
fn keys(pair: &Pair, node: &Node, lines: &[&str]) {
    let path = pair.file(&format!("{}.key", node.id), lines.join("\n"));
    #[cfg(unix)]
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

async fn restart(node: &Node) {
    node.stop().await;
    node.start().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_is_rotated_without_a_moment_of_misunderstanding() {
    let pair = Pair::laid_out().await;
    let old = fs::read_to_string(pair.layout().join("pair.key")).unwrap();
    let old = old
        .lines()
        .find(|l| l.len() == 64 && l.chars().all(|c| c.is_ascii_hexdigit()))
        .unwrap();
    let new = "0f1e2d3c4b5a69788796a5b4c3d2e1f0".repeat(2);
    for node in pair.nodes() {
        keys(&pair, node, &[old]);
        let path = pair.dir().join(format!("{}.key", node.id));
        node.configure("../pair.key", &path.to_string_lossy());
    }
    pair.start_both().await;
    let (here, there) = (&pair.primary, &pair.secondary);
    let steps: [&[&str]; 3] = [&[old, &new], &[&new, old], &[&new]];
    for lines in steps {
        for node in pair.nodes() {
            keys(&pair, node, lines);
            restart(node).await;
            // In between the two have different files, and understand one another all the same.
            pair.in_step().await;
            let message = here.leave("2001", "1", ONE).await;
            there.hears("2001", &message, ONE).await;
        }
    }
    for node in pair.nodes() {
        let alarms = node.get("/api/v1/alarms").await;
        assert!(!alarms.to_string().contains("bad_signature"), "{alarms}");
    }

    // One node with the old key alone is not believed, and both say so; nothing is lost by it.
    keys(&pair, there, &[old]);
    there.stop().await;
    let message = here.leave("2001", "2", TWO).await;
    there.launch().await;
    let refused = here.alarm("bad_signature").await;
    assert!(refused["text"].as_str().unwrap().contains("key"));
    keys(&pair, there, &[&new]);
    restart(there).await;
    pair.in_step().await;
    there.hears("2001", &message, TWO).await;
}
