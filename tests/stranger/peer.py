#!/usr/bin/env python3
"""A second implementation of the pair's synchronisation, written from docs/wire-format.md and docs/heartbeat.md alone.

    peer.py --config FILE     is the node of this configuration (docs/config.md), instead of `vmsync serve`
            --plain           ... and neither offers nor uses CHUNKING, BINARYMIME and PIPELINING
    peer.py --check ROOT      reads all examples in the workspace at ROOT: mails, digest, heartbeat

Python 3.11, standard library only. It serves nobody: it answers heartbeats, takes mails, keeps a replica in memory, and
sends what the other node lacks. What a test wants to know or do goes to /stranger on its HTTP port.
"""

import argparse
import base64
import hashlib
import http.client
import http.server
import io
import json
import pathlib
import secrets
import smtplib
import ssl
import sys
import threading
import time
import tomllib
import traceback
import urllib.parse
import uuid
import wave

sys.dont_write_bytecode = True  # nothing is left behind in the source tree

import mail
import smtp
from replica import Refused, Replica, bucket_of, canonical, rfc3339
from session import Session

HEARTBEAT = "/pair/v1/heartbeat"


class Peer:
    """The node: threads around one `Session`, under one lock."""

    def __init__(self, path, plain):
        config = tomllib.loads(path.read_text())
        self.file = lambda name: path.parent / name
        self.node, self.pair = config["node"], config["pair"]
        self.peer_id = self.pair.get("peer_id", self.pair["peer"].partition(".")[0])
        self.keys = keys_of(self.file(self.pair["key_file"]))
        self.session = Session(self.node["id"], self.peer_id)
        self.boot = secrets.randbits(52)
        self.groups = {}          # by name, who serves: the highest epoch heard
        self.news = threading.Condition()
        self.stop = False
        self.replies = []         # replies to mails taken
        self.lost = {}            # audio that a test took away
        self.sent = []            # mails sent: (bytes, code, text)

        self.tls = {name: str(self.file(config["tls"][name])) for name in ("ca", "cert", "key")}
        server_tls, self.client_tls = smtp.contexts(self.tls)
        route = config["smtp"]["sender"][0]
        self.route = route.get("server", self.pair["peer"]), route.get("port", 25)
        listen = address(config["smtp"]["receiver"]["listen"])
        self.smtp = smtp.Server(listen, self.node["fqdn"], self.pair["peer"], server_tls, self.take)
        self.plain = self.smtp.plain = plain
        self.http = http.server.ThreadingHTTPServer(address(config["http"]["listen"]), Pages)
        self.http.peer = self

    def run(self):
        for work in (self.smtp.serve_forever, self.http.serve_forever, self.beat):
            threading.Thread(target=work, daemon=True).start()
        threading.Thread(target=self.deliver, daemon=True).start()
        print(f"{self.node['id']} listens as {self.session.origin}", flush=True)
        sys.stdin.read()  # until whoever started it is gone

    # Mails -------------------------------------------------------------------------------------------------

    def take(self, raw):
        """A mail came: the reply to it."""
        try:
            manifest, audio = mail.read(raw, self.keys, self.node["id"])
            with self.news:
                self.session.take(manifest, audio)
                self.news.notify_all()
            reply = "250 2.0.0 durable"
        except Refused as refused:
            reply = refused.reply
        except Exception as e:
            traceback.print_exc()
            reply = f"554 5.6.0 malformed: {e!r}"
        self.replies.append(reply)
        return reply.replace("\n", " ")

    def deliver(self):
        """Sends what there is to say, one mail at a time, over a connection that is kept."""
        line = None
        while not self.stop:
            with self.news:
                letter = self.session.next()
                if letter is None:
                    self.news.wait(0.2)
                    continue
            try:
                line = line or self.connect()
                code, text = self.send(line, self.written(letter, line.offers("binarymime")))
            except (OSError, smtplib.SMTPException) as e:
                line, code, text = None, 0, repr(e)
            with self.news:
                self.session.sent(letter, code)
            if code != 250:
                print(f"not taken: {code} {text}", flush=True)
                time.sleep(0.3)

    def connect(self):
        return smtp.Client(self.route, self.pair["peer"], self.node["fqdn"], self.client_tls, self.plain)

    def written(self, letter, binary):
        head, members, audio = letter
        domains = self.node["fqdn"], self.pair["peer"]
        return mail.write(head, members, audio, self.keys[0], domains, binary), binary

    def send(self, line, letter):
        raw, binary = letter
        code, text = line.deliver(raw, f"vmsync@{self.node['fqdn']}", f"vmsync@{self.pair['peer']}", binary)
        self.sent.append((raw, binary, code, text))
        return code, text

    # Heartbeats (docs/heartbeat.md) ------------------------------------------------------------------------

    def report(self):
        with self.news:
            held = self.session.replica
            mailboxes = sum(e.startswith("mailbox/") and "created" in r.get("f", {}) for e, r in held.records.items())
            messages = sum(e.startswith("message/") and "f" in r for e, r in held.records.items())
            return {
                "node": self.node["id"], "boot": self.boot, "at": rfc3339(time.time_ns() // 1_000_000),
                "groups": list(self.groups.values()), "calls": [], "have": dict(held.have), "seen": held.seen(), "ready": True,
                "totals": {"mailboxes": mailboxes, "messages": messages, "bytes": 0},
            }

    def answer(self, path, body, signature):
        """Answers a question of the other node: status, signature, body."""
        if not mail.verified(self.keys, f"question:{path}", body, signature):
            return 401, "", b"not signed with this pair's key"
        question = json.loads(body)
        if question["from"] != self.peer_id:
            return 403, "", b"not this node's peer"
        if path != HEARTBEAT:
            return 500, "", b"this node only synchronises"
        self.adopt(question["body"])
        answer = json.dumps({"nonce": question["nonce"], "body": self.report()}).encode()
        return 200, mail.signature(self.keys[0], f"answer:{path}", answer), answer

    def adopt(self, report):
        for group in report["groups"]:
            mine = self.groups.get(group["group"], group)
            if group["epoch"] >= mine["epoch"]:
                self.groups[group["group"]] = group

    def beat(self):
        """Asks the other node each second; notices when it was away or has started anew."""
        life, last = None, time.monotonic()
        while not self.stop:
            report = self.ask()
            if report:
                self.adopt(report)
                if life not in (None, report["boot"]):
                    with self.news:
                        self.session.begin()
                life, last = report["boot"], time.monotonic()
            elif life is not None and time.monotonic() > last + 5:
                life = None
                with self.news:
                    self.session.begin()
            time.sleep(0.5)

    def ask(self):
        url = urllib.parse.urlsplit(self.pair["peer_url"])
        question = {"nonce": str(uuid.uuid4()), "from": self.node["id"], "body": self.report()}
        body = json.dumps(question).encode()
        headers = {
            "Content-Type": "application/json",
            "Vmsync-Signature": mail.signature(self.keys[0], f"question:{HEARTBEAT}", body),
        }
        try:
            line = http.client.HTTPConnection(url.hostname, url.port, timeout=2)
            line.request("POST", HEARTBEAT, body, headers)
            response = line.getresponse()
            text = response.read()
            line.close()
            signature = response.headers.get("Vmsync-Signature", "")
            signed = mail.verified(self.keys, f"answer:{HEARTBEAT}", text, signature)
            answer = json.loads(text) if response.status == 200 and signed else {}
        except (OSError, http.client.HTTPException, ValueError):
            return None
        return answer.get("body") if answer.get("nonce") == question["nonce"] else None

    # For tests ---------------------------------------------------------------------------------------------

    def told(self):
        with self.news:
            session, held = self.session, self.session.replica
            return {
                "origin": session.origin, "have": held.have, "floor": held.floor, "digest": held.digest(),
                "started": session.started, "finished": session.finished, "heard": session.heard,
                "echoed": session.echoed, "records": held.records, "log": [e for log in held.log.values() for e in log.values() if "stamp" in e][:1], "quarantine": held.quarantine, "seeding": held.seeding,
                "replies": self.replies, "sent": [[code, text] for _, _, code, text in self.sent],
            }

    def do(self, what):
        """One thing a test asks for."""
        kind = what["do"]
        with self.news:
            if kind == "audio":
                audio = wav(base64.b64decode(what["data"]))
                self.session.replica.put_audio(*audio)
                return audio[0]
            if kind == "change":
                seq = self.session.change(what["entity"], what["effect"])
                self.news.notify_all()
                return {"seq": seq}
            if kind == "lose":
                # As a disk that can't read a file: the record stays.
                about, data = self.session.replica.audio.pop(what["blob"])
                self.lost[what["blob"]] = about, data
                return about
            if kind == "mend":
                self.session.replica.audio |= self.lost
                self.session.mended.append(what["entity"])
                self.news.notify_all()
                return what["entity"]
            if kind == "forget":
                # As a damaged disk would: the record is gone, the vector is not.
                return self.session.replica.records.pop(what["entity"])
            if kind == "compact":
                # As a log that was cut: records alone tell what was before.
                held = self.session.replica
                held.floor, held.log = dict(held.have), {}
                return held.floor
        tls = self.client_tls
        if kind == "send" and what.get("tls") == "anonymous":
            tls = ssl.create_default_context(cafile=self.tls["ca"])
        if kind == "send" and what.get("tls") == "none":
            tls = None
        line = smtp.Client(self.route, self.pair["peer"], self.node["fqdn"], tls)
        if kind == "send":
            # A mail of the test's own: fields of the head and members that differ, audio that was damaged on the way.
            with self.news:
                head = self.session.head() | what.get("head", {})
                held = [self.session.replica.audio[blob] for blob in what.get("damaged", [])]
            audio = [(about, bytes(len(data))) for about, data in held]
            return self.send(line, self.written((head, what.get("members", {}), audio), False))
        if kind == "forge":
            # A head signed with a key that is not the pair's.
            with self.news:
                letter = self.session.head(), {}, []
            domains = self.node["fqdn"], self.pair["peer"]
            forged = mail.write(*letter, secrets.token_bytes(32), domains)
            return self.send(line, (forged, False))
        if kind == "replay":
            # All that was ever taken, byte for byte, in the order it went.
            return [self.send(line, (raw, binary)) for raw, binary, code, _ in list(self.sent) if code == 250]
        raise ValueError(kind)


class Pages(http.server.BaseHTTPRequestHandler):
    """The other node's questions, and a test's."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.startswith("/pair/"):
            answer = self.server.peer.answer(self.path, body, self.headers.get("Vmsync-Signature", ""))
        else:
            answer = 200, "", json.dumps(self.server.peer.do(json.loads(body))).encode()
        self.reply(*answer)

    def do_GET(self):
        peer, blob = self.server.peer, self.path.removeprefix("/stranger/audio/")
        if blob in peer.session.replica.audio:
            self.reply(200, "", peer.session.replica.audio[blob][1])
        elif self.path == "/stranger":
            self.reply(200, "", json.dumps(peer.told()).encode())
        else:
            self.reply(404, "", b"not found")

    def reply(self, status, signature, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if signature:
            self.send_header("Vmsync-Signature", signature)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def address(text):
    host, _, port = text.rpartition(":")
    return host, int(port)


def wav(data):
    """How a WAV of 16-bit PCM is told of, and its bytes."""
    with wave.open(io.BytesIO(data)) as sound:
        ms = sound.getnframes() * 1000 // sound.getframerate()
    return {
        "blob": str(uuid.uuid4()), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(),
        "content_type": "audio/wav", "codec": "pcm16", "duration_ms": ms,
    }, data


def keys_of(path):
    """The pair's keys: 64 hexadecimal digits a line; `#` begins a comment."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return [bytes.fromhex(line) for line in lines if line and not line.startswith("#")]


def check(root):
    """Reads all examples that are kept for other implementations; ends with words where one is not as it should be."""
    def must(good, what):
        if not good:
            sys.exit(f"{what} is not what the documents say")

    mails = root / "vmsync/core/tests/data/wire"
    keys, found = keys_of(mails / "pair.key"), sorted(mails.rglob("*.eml"))
    for path in found:
        raw, given = path.read_bytes(), json.loads(path.with_suffix(".json").read_text())["mail"]
        manifest, audio = mail.read(raw, keys, "vmpro2")
        abouts = [one["about"] for one in given.pop("audio")]
        must(all(manifest.get(member, []) == value for member, value in given.items()), path)
        must([about for about, _ in audio.values()] == abouts, path)
        try:
            mail.read(raw, [bytes(32)], "vmpro2")
            must(False, path)
        except Refused as refused:
            must(refused.reply.startswith("550 5.7.1"), path)

    digest = json.loads((root / "store/tests/data/digest/example.json").read_text())
    replica = Replica()
    must(replica.digest() == digest["empty"], "the digest of nothing")
    replica.apply(digest["operations"])
    items = replica.items()
    for one in digest["records"]:
        entity = one["entity"]
        must(canonical(replica.records[entity]).decode() == one["canonical"], entity)
        must((items[entity].hex(), bucket_of(entity)) == (one["item"], one["bucket"]), entity)
    must(replica.digest() == digest["digest"], "the digest")

    beats = root / "vmsync/tests/data/heartbeat"
    for name in ("question", "answer"):
        body, signature = (beats / f"{name}.json").read_bytes(), (beats / f"{name}.signature").read_text().strip()
        must(mail.verified(keys, f"{name}:{HEARTBEAT}", body, signature), name)
    return f"{len(found)} mails, {len(items)} records, a heartbeat: as the documents say"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=pathlib.Path)
    parser.add_argument("--check", type=pathlib.Path)
    parser.add_argument("--plain", action="store_true")
    asked = parser.parse_args()
    if asked.check:
        print(check(asked.check))
    else:
        Peer(asked.config, asked.plain).run()
