//! Every code an alarm may have, and how much it matters. What each means and what to do is told in
//! docs/alarms.md; tests hold code, this table and that page together.

use vmsync_config::Severity::{self, Critical, Error, Notice, Warning};

/// A code and how much it matters.
pub type Entry = (&'static str, Severity);

/// By code.
pub const CATALOGUE: &[Entry] = &[
    ("alarm_address_refused", Warning),
    ("alarm_channel_down", Error),
    ("alarm_channel_dropped", Warning),
    ("alarm_list_full", Error),
    ("audio_damaged", Error),
    ("backup_failed", Error),
    ("bad_signature", Error),
    ("clock_ahead", Warning),
    ("disk_full", Critical),
    ("diverged", Error),
    ("email_delayed", Warning),
    ("email_failed", Warning),
    ("email_no_entry", Warning),
    ("email_server", Error),
    ("features_not_kept", Error),
    ("flapping", Warning),
    ("foreign_domain", Warning),
    ("heartbeat_lost", Error),
    ("index_damaged", Error),
    ("index_rebuilt", Warning),
    ("licence_grace", Warning),
    ("licence_missing", Critical),
    ("maintenance", Notice),
    ("many_origins", Notice),
    ("not_settled", Warning),
    ("operation_refused", Error),
    ("mode_mismatch", Warning),
    ("order_dropped", Warning),
    ("order_overdue", Warning),
    ("ownership_not_kept", Critical),
    ("peer_lost", Critical),
    ("phones_failover", Critical),
    ("probe_late", Warning),
    ("quarantine_full", Error),
    ("quarantined", Error),
    ("restored", Warning),
    ("smtp_lost", Error),
    ("store_failed", Critical),
    ("sync_refused", Error),
    ("sync_stalled", Error),
    ("tls_required", Error),
    ("voicemail_failover", Critical),
    ("vrl_disk", Error),
    ("vrl_stalled", Error),
    ("vrl_unfit", Warning),
    ("wire_version", Error),
    ("witness_unseen", Warning),
    ("wrong_certificate", Error),
    ("wrong_node", Error),
];

/// How much an alarm of `code` matters; one that is not known matters as an error.
pub fn severity(code: &str) -> Severity {
    let known = CATALOGUE.iter().find(|(known, _)| *known == code);
    known.map_or(Error, |(_, severity)| *severity)
}
