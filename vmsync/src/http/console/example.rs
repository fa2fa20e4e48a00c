//! A status for tests: a single-active pair in normal operation, as the primary sees it.

use crate::status::Status;

pub(crate) fn status() -> Status {
    serde_json::from_value(serde_json::json!({
        "node": {
            "id": "vmpro1", "fqdn": "vmpro1.example.com", "role": "primary", "incarnation": "0000abcd",
            "voicemail_type": "local", "backup_address": "vmpro2.example.com", "version": "0.1.0",
            "started_at": "2026-11-22T08:00:00Z", "ready": true
        },
        "mode": "single-active",
        "peer": {
            "id": "vmpro2", "fqdn": "vmpro2.example.com", "url": "http://vmpro2.example.com:8080",
            "visible": true, "since": "2026-11-22T08:00:01Z", "last_seen": "2026-11-22T08:10:00Z",
            "reason": null, "calls": 0, "totals": {"mailboxes": 3, "messages": 7, "bytes": 1_680_000}
        },
        "groups": [{
            "name": "primary", "home": "vmpro1", "backup": "vmpro2", "owner": "vmpro1",
            "phase": "normal", "epoch": 4, "since": "2026-11-22T08:00:02Z",
            "reason": "normal operation", "serving_here": "yes",
            "failback": {"policy": "graceful", "timeout_minutes": 60, "deadline": null, "waiting_for": []},
            "calls": 0, "phones_refused": 0
        }],
        "sync": {
            "out": {"state": "finished", "pending_ops": 0, "pending_bytes": 0, "lag_ms": 0,
                    "eta_s": null, "reason": null, "since": "2026-11-22T08:00:03Z"},
            "in": {"state": "finished", "pending_ops": 0, "pending_bytes": 0, "lag_ms": 0,
                   "eta_s": null, "reason": null, "since": "2026-11-22T08:00:03Z"},
            "digest": "9f1c0000000000000000000000000000", "peer_digest": "9f1c0000000000000000000000000000",
            "diverged": false
        },
        "links": [{"system": "HQ", "colour": "dark-green", "meaning": "up, it backs me up", "destination": "99999"}],
        "calls": 0,
        "totals": {"mailboxes": 3, "messages": 7, "bytes": 1_680_000},
        "vrl": {"state": "off", "files_pending": 0, "bytes_pending": 0, "files_done": 0, "last_error": null},
        "alarms": 0
    }))
    .unwrap()
}
