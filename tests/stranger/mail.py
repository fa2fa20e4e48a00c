"""Mails between the nodes, read and written as docs/wire-format.md says. Section numbers are its own."""

import base64
import email
import email.utils
import hashlib
import hmac
import json
import re

from replica import Refused, milliseconds

MANIFEST = "application/vnd.vmsync.sync+json"
VERSION = "1.1"


# Signature (section 4) --------------------------------------------------------------------------------------

def tag(key, purpose, message):
    """The MAC for a purpose: `mail`, `heartbeat`, ..."""
    name = purpose.encode()
    return hmac.digest(key, b"vmsync-mac-1" + len(name).to_bytes(4, "big") + name + message, "sha256")


def signature(key, purpose, message):
    key_id = hmac.digest(key, b"vmsync-key-id", "sha256")[:4].hex()
    return f"hmac-sha256; key={key_id}; mac={base64.b64encode(tag(key, purpose, message)).decode()}"


def verified(keys, purpose, message, value):
    """Whether `value` is the signature of `message` under one of the pair's keys."""
    good = [hmac.compare_digest(signature(key, purpose, message), value) for key in keys]
    return any(good)


# Reading ----------------------------------------------------------------------------------------------------

def parts_of(entity, depth=0):
    """All parts that are no multiparts, wherever they stand."""
    if depth > 8:
        raise Refused("554 5.6.0", "nested too deep")
    if entity.is_multipart():
        for part in entity.get_payload():
            yield from parts_of(part, depth + 1)
    else:
        yield entity


def read(raw, keys, me):
    """Manifest, and audio by blob, of a mail for node `me`; checks in the order of section 4."""
    whole = email.message_from_bytes(raw)
    parts = list(parts_of(whole))
    if len(parts) > 600:
        raise Refused("554 5.6.0", "too many parts")
    manifests = [p for p in parts if p.get_content_type() == MANIFEST]
    signatures = whole.get_all("Vmsync-Signature", [])
    if not signatures:
        raise Refused("550 5.7.1", "no signature")
    if len(manifests) != 1 or len(signatures) != 1:
        raise Refused("554 5.6.0", "there must be exactly one manifest and one signature")
    text = manifests[0].get_payload(decode=True)
    if not verified(keys, "mail", text, signatures[0].strip()):
        raise Refused("550 5.7.1", "not signed with a key of this pair")
    try:
        manifest = json.loads(text)
        head = manifest["head"]
        if not re.fullmatch(r"1\.\d+", head["version"]):
            raise Refused("451 4.5.0", f"version {head['version']} is not spoken here")
        milliseconds(head["sent_at"])
        wrong = head["to"] != me or head["from"].rpartition(".")[0] == me
        named = {a["content_id"]: a["about"] for a in manifest["attachments"]}
    except (ValueError, KeyError, TypeError) as e:
        raise Refused("554 5.6.0", f"malformed manifest: {e!r}") from e
    if wrong:
        raise Refused("550 5.1.1", f"from {head['from']} to {head['to']}: not for {me}")
    found = {str(p.get("Content-ID", "")).strip().strip("<>"): p for p in parts}
    audio = {}
    for content_id, about in named.items():
        if content_id not in found:
            raise Refused("554 5.6.0", f"attachment {content_id} is missing")
        data = found[content_id].get_payload(decode=True)
        if len(data) != about["bytes"] or hashlib.sha256(data).hexdigest() != about["sha256"]:
            raise Refused("554 5.6.0", f"attachment {content_id} is damaged")
        audio[about["blob"]] = (about, data)
    return manifest, audio


# Writing ----------------------------------------------------------------------------------------------------

def entity(headers, body):
    """One MIME entity: headers, empty line, body."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return lines.encode() + b"\r\n" + body


def multipart(boundary, parts):
    """The body of a multipart."""
    delimiter = b"--" + boundary.encode()
    return b"".join(delimiter + b"\r\n" + part + b"\r\n" for part in parts) + delimiter + b"--\r\n"


def leaf(headers, data, binary):
    """A part with a transfer encoding: base64, or as it is."""
    if binary:
        return entity(headers | {"Content-Transfer-Encoding": "binary"}, data)
    encoded = base64.encodebytes(data).replace(b"\n", b"\r\n").removesuffix(b"\r\n")
    return entity(headers | {"Content-Transfer-Encoding": "base64"}, encoded)


def audio_part(content_id, about, data, binary):
    return leaf({
        "Content-Type": about["content_type"],
        "Content-ID": f"<{content_id}>",
        "Content-Disposition": f'attachment; filename="audio.bin"; size={len(data)}',
        "Content-Duration": max(1, -(-about.get("duration_ms", 0) // 1000)),
    }, data, binary)


def write(head, members, audio, key, domains, binary=False):
    """A mail's bytes. `members`: of the manifest, beside head and attachments; `audio`: (about, bytes) each.

    Several voice messages go as a `multipart/digest`, one alone as an Internet Voice Messaging mail (section 2).
    """
    from_domain, to_domain = domains
    mark = head["id"].replace("-", "")
    attachments = [
        {"content_id": f"audio-{n}.{head['id']}@stranger", "about": about} for n, (about, _) in enumerate(audio, 1)
    ]
    manifest = json.dumps({"head": head, "operations": [], "attachments": attachments} | members).encode()
    carried = manifest + b"".join(data for _, data in audio)
    while mark.encode() in carried:
        mark += "x"
    addresses = {"From": f"<vmsync@{from_domain}>", "To": f"<vmsync@{to_domain}>", "MIME-Version": "1.0"}
    date = email.utils.formatdate(milliseconds(head["sent_at"]) / 1000)
    how = {"Content-Transfer-Encoding": "binary"} if binary else {}

    only_voice = len(audio) == 1 and len(members.get("operations", [])) == 1
    in_digest = not only_voice and any("mailbox" in about for about, _ in audio)
    parts, messages = [entity({"Content-Type": "text/plain; charset=utf-8"}, b"For the other node of the pair.")], []
    for n, (attachment, (about, data)) in enumerate(zip(attachments, audio), 1):
        part = audio_part(attachment["content_id"], about, data, binary)
        if not in_digest:
            parts.append(part)
            continue
        inner = addresses | {
            "Date": date, "Subject": "Voice message", "Message-ID": f"<message-{n}.{head['id']}@{from_domain}>",
            "Message-Context": "voice-message",
            "Content-Type": f'multipart/mixed; boundary="=_message-{n}-{mark}"',
        } | how
        message = entity(inner, multipart(f"=_message-{n}-{mark}", [part]))
        messages.append(entity({"Content-Type": "message/rfc822"} | how, message))
    if messages:
        digest = {"Content-Type": f'multipart/digest; boundary="=_digest-{mark}"'} | how
        parts.append(entity(digest, multipart(f"=_digest-{mark}", messages)))
    parts.append(leaf({
        "Content-Type": MANIFEST,
        "Content-Disposition": 'attachment; filename="vmsync.json"; handling=optional',
    }, manifest, binary))
    top = addresses | {
        "Date": date, "Subject": f"vmsync: news of {head['from']}", "Message-ID": f"<{head['id']}@{from_domain}>",
        "Auto-Submitted": "auto-generated", "Vmsync-Signature": signature(key, "mail", manifest),
    } | ({"Message-Context": "voice-message"} if only_voice else {}) | {
        "Content-Type": f'multipart/mixed; boundary="=_vmsync-{mark}"',
    } | how
    return entity(top, multipart(f"=_vmsync-{mark}", parts))
