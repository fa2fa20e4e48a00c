//! `[limits]`.

use crate::{checked::Limits, defaults, errors::Report, shape, units::show_duration};

pub(super) fn limits(raw: &shape::Limits, report: &mut Report) -> Option<Limits> {
    let message_bytes = raw.message_bytes.within(&defaults::MESSAGE_BYTES, report);
    let smtp = raw
        .smtp_connections
        .within(&defaults::SMTP_CONNECTIONS, report);
    let http = raw
        .http_connections
        .within(&defaults::HTTP_CONNECTIONS, report);
    let command = raw
        .smtp_command_timeout
        .within(&defaults::SMTP_COMMAND_TIMEOUT, report);
    let data = raw
        .smtp_data_timeout
        .within(&defaults::SMTP_DATA_TIMEOUT, report);
    let min_free = raw.min_free_bytes.within(&defaults::MIN_FREE_BYTES, report);
    let min = raw.message_min.within(&defaults::MESSAGE_MIN, report);
    let max = raw.message_max.within(&defaults::MESSAGE_MAX, report);
    let recording_max = raw.recording_max.within(&defaults::RECORDING_MAX, report);
    let call_idle = raw.call_idle.within(&defaults::CALL_IDLE, report);
    let log_operations = raw.log_operations.within(&defaults::LOG_OPERATIONS, report);
    let audio_check = raw.audio_check.within(&defaults::AUDIO_CHECK, report);
    let phones = raw.phones.within(&defaults::TRACKED_PHONES, report);
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        let message = format!(
            "{} is more than limits.message_max, {}: every message would be dropped (R-MB-8)",
            show_duration(min),
            show_duration(max)
        );
        raw.message_min.error(report, message);
    }
    Some(Limits {
        message_bytes: message_bytes?.0,
        smtp_connections: smtp?,
        http_connections: http?,
        smtp_command_timeout: command?,
        smtp_data_timeout: data?,
        min_free_bytes: min_free?.0,
        message_min: min?,
        message_max: max?,
        recording_max: recording_max?,
        call_idle: call_idle?,
        log_operations: log_operations?,
        audio_check: audio_check?,
        phones: phones?,
    })
}
