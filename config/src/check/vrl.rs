//! `[vrl]`, `[vrl.server]` and `[vrl.archive]`.

use super::{Context, names::is_host, not_blank, real_port};
use crate::{
    checked::{Mode, Role, Vrl, VrlArchive, VrlRemote, VrlServer, VrlTls, VrlVerify},
    defaults,
    errors::{Report, printable},
    shape,
    value::Bytes,
};

/// `has_tls`: whether this node has certificates; `None` when that is unknown.
pub(super) fn vrl(
    raw: &shape::Vrl,
    has_tls: Option<bool>,
    ctx: &Context,
    report: &mut Report,
) -> Option<Vrl> {
    let remote = remote(raw, has_tls, ctx, report);
    let server = server(&raw.server, ctx, report);
    let folder = raw.folder.or(defaults::VRL_FOLDER.into());
    Some(Vrl {
        folder: ctx.path(folder?),
        remote: remote?,
        server: server?,
        right: raw.right.or(defaults::VRL_RIGHT)?,
    })
}

/// Where the secondary moves its recordings (R-VR-1); configured when any of its keys is there.
#[allow(clippy::option_option, reason = "wrong, none, or set")]
fn remote(
    raw: &shape::Vrl,
    has_tls: Option<bool>,
    ctx: &Context,
    report: &mut Report,
) -> Option<Option<VrlRemote>> {
    let any = [
        raw.remote_host.is_absent(),
        raw.remote_port.is_absent(),
        raw.remote_location.is_absent(),
        raw.ftp_user.is_absent(),
        raw.ftp_password_file.is_absent(),
        raw.tls.is_absent(),
        raw.verify.is_absent(),
        raw.window.is_absent(),
        raw.rate.is_absent(),
        raw.connections.is_absent(),
    ];
    if any.iter().all(|absent| *absent) {
        return Some(None);
    }
    let host = raw.remote_host.clone().check(report, |host| {
        if is_host(host) {
            Ok(())
        } else {
            Err(format!(
                "\"{}\" is no host name or address: set the primary's FQDN or IP address (R-VR-1)",
                printable(host)
            ))
        }
    });
    let misplaced = match (ctx.role, ctx.mode) {
        (Some(Role::Primary), _) => Some(
            "recordings move from the secondary to the primary, and this node is the primary: remove it (R-VR-1)",
        ),
        (_, Some(Mode::DualActive)) => {
            Some("in dual-active, recordings stay with the node that made them: remove it (R-VR-3)")
        }
        _ => None,
    };
    if let Some(message) = misplaced {
        raw.remote_host.error(report, message);
        return None;
    }
    let host = host.require(report);
    let user = raw.ftp_user.clone().check(report, not_blank);
    let user = user.require(report);
    let password_file = raw.ftp_password_file.require(report);
    let port = raw.remote_port.clone().check(report, real_port);
    let location = raw.remote_location.clone().check(report, |location| {
        if location.starts_with('/') {
            Ok(())
        } else {
            Err(format!(
                "\"{}\" must be the folder's whole path on the server, from /",
                printable(location)
            ))
        }
    });
    let tls = encryption(raw, has_tls, report);
    let rate = raw.rate.clone().check(report, |rate| {
        if rate.0 < defaults::LEAST_VRL_RATE {
            Err(format!(
                "{} bytes a second would hold a recording up for hours: set at least {} (16KiB), or leave it out",
                rate.0,
                defaults::LEAST_VRL_RATE
            ))
        } else {
            Ok(())
        }
    });
    let connections = raw.connections.clone().check(report, |n| {
        if (1..=defaults::MOST_VRL_CONNECTIONS).contains(n) {
            Ok(())
        } else {
            Err(format!(
                "{n} connections: set 1 to {}",
                defaults::MOST_VRL_CONNECTIONS
            ))
        }
    });
    Some(Some(VrlRemote {
        host: host?,
        port: port.or(defaults::FTP_PORT)?,
        location: location.or(defaults::VRL_FOLDER.to_owned())?,
        user: user?,
        password_file: ctx.path(password_file?),
        tls: tls?,
        verify: raw.verify.or(VrlVerify::Node)?,
        window: raw.window.get(),
        rate: rate.get().map(|rate| rate.0),
        connections: connections.or(defaults::VRL_CONNECTIONS)?,
    }))
}

/// What the backup keeps of recordings that were moved.
#[allow(clippy::option_option, reason = "wrong, none, or set")]
pub(super) fn archive(
    raw: &shape::Vrl,
    vrl: Option<&Vrl>,
    ctx: &Context,
    report: &mut Report,
) -> Option<Option<VrlArchive>> {
    let given = &raw.archive;
    if !given.head.given {
        return Some(None);
    }
    let mut wrong = |message: &str| report.error(&given.head.place, &given.head.path, message);
    if raw.remote_host.is_absent() {
        wrong(
            "it is kept of what is moved to the primary: set vrl.remote_host on the secondary, or remove it",
        );
    }
    if given.max_age.is_absent() && given.max_bytes.is_absent() {
        wrong("without a limit the disk fills up: set max_age, max_bytes, or both");
    }
    let max_age = given
        .max_age
        .clone()
        .check(report, |age| defaults::ARCHIVE_AGE.check(age));
    let max_bytes = given.max_bytes.clone().check(report, |bytes| {
        if bytes.0 < defaults::LEAST_ARCHIVE_BYTES {
            Err(format!(
                "{} bytes hold next to nothing: set at least {} (1MiB), or leave it out",
                bytes.0,
                defaults::LEAST_ARCHIVE_BYTES
            ))
        } else {
            Ok(())
        }
    });
    let recordings = vrl.map(|vrl| vrl.folder.clone());
    let folder = given.folder.clone().check(report, |folder| {
        let folder = ctx.path(folder.clone());
        match &recordings {
            Some(other) if folder.starts_with(other) || other.starts_with(&folder) => Err(format!(
                "{} and vrl.folder, {}, must not be one another, nor in one another",
                folder.display(),
                other.display()
            )),
            _ => Ok(()),
        }
    });
    let folder = folder.require(report);
    Some(Some(VrlArchive {
        folder: ctx.path(folder?),
        max_age: max_age.get(),
        max_bytes: max_bytes.get().map(|bytes| bytes.0),
    }))
}

/// FTPS wherever there is a CA to verify the server with, unless turned off.
fn encryption(raw: &shape::Vrl, has_tls: Option<bool>, report: &mut Report) -> Option<VrlTls> {
    let tls = raw.tls.clone().check(report, |tls| match (tls, has_tls) {
        (VrlTls::Required, Some(false)) => Err(
            "is \"required\", which needs tls.ca, tls.cert and tls.key: set them, or \"off\""
                .to_owned(),
        ),
        _ => Ok(()),
    });
    tls.or(if has_tls? {
        VrlTls::Required
    } else {
        VrlTls::Off
    })
}

/// The embedded FTP server of the primary.
#[allow(clippy::option_option, reason = "wrong, none, or set")]
fn server(raw: &shape::VrlServer, ctx: &Context, report: &mut Report) -> Option<Option<VrlServer>> {
    if !raw.head.given {
        return Some(None);
    }
    let listen = raw.listen.require(report);
    let user = raw.user.clone().check(report, not_blank);
    let user = user.require(report);
    let password_file = raw.password_file.require(report);
    let ports = raw
        .passive_ports
        .clone()
        .check(report, |ports| match listen {
            Some(listen) if (ports.0..=ports.1).contains(&listen.port()) => Err(format!(
                "holds {}, the port of vrl.server.listen: choose another range",
                listen.port()
            )),
            _ => Ok(()),
        });
    let misplaced = match (ctx.role, ctx.mode) {
        (Some(Role::Secondary), _) => Some(
            "recordings move to the primary, and this node is the secondary: remove it (R-VR-1)",
        ),
        (_, Some(Mode::DualActive)) => {
            Some("in dual-active, recordings stay with the node that made them: remove it (R-VR-3)")
        }
        _ => None,
    };
    if let Some(message) = misplaced {
        report.error(&raw.head.place, &raw.head.path, message);
        return None;
    }
    let address = raw.passive_address.clone().check(report, |address| {
        if address.is_unspecified() || address.is_multicast() || address.is_broadcast() {
            Err(format!(
                "{address} is no address to connect to: set the IPv4 address clients reach this node at"
            ))
        } else {
            Ok(())
        }
    });
    let max_bytes = raw.max_bytes.clone().check(report, |max| {
        if max.0 < defaults::LEAST_VRL_MAX_BYTES {
            Err(format!(
                "{} bytes is less than a short call: set at least {} (1MiB)",
                max.0,
                defaults::LEAST_VRL_MAX_BYTES
            ))
        } else {
            Ok(())
        }
    });
    let ports = ports.or(defaults::PASSIVE_PORTS)?;
    Some(Some(VrlServer {
        listen: listen?,
        passive_ports: (ports.0, ports.1),
        passive_address: address.get(),
        max_bytes: max_bytes.or(Bytes(defaults::VRL_MAX_BYTES))?.0,
        user: user?,
        password_file: ctx.path(password_file?),
    }))
}
