"""One side of a session, as docs/wire-format.md sections 5 to 10 say: what comes in, and what to send next.

No sockets here: `Session.take` is given a mail's manifest, `Session.next` says what the next mail carries.
"""

import secrets
import time
import uuid

from mail import VERSION
from replica import Replica, audio_of, beyond, covers, merged, milliseconds, order, rfc3339, stamps_of

MAIL_BYTES = 4 * 1024 * 1024
MAIL_VOICES = 64
MAIL_ENTRIES = 500
AGAIN = 2.0          # seconds until a hello is sent again
SUMS_AGAIN = 60.0    # seconds until bucket sums are sent again (section 8)
PROBE_EVERY = 5.0    # seconds between two probes (section 10)
REFUSED = "refused by the peer, alone, three times"
ALONE = 3            # refusals of one that travels alone, until it is left behind (section 9)


class Session:
    """What this node knows of the pair. Not for several threads at once: the caller holds a lock."""

    def __init__(self, me, peer):
        self.me, self.peer = me, peer
        # All is in memory, so a process that starts has forgotten what it had: a new incarnation.
        self.origin = f"{me}.{secrets.token_hex(4)}"
        self.replica = Replica()
        self.clock = (0, 0)
        self.batch = MAIL_ENTRIES  # operations or records a mail; narrowed down when refused
        self.refusals = 0         # in a row, of one that travelled alone
        self.begin()

    def begin(self):
        """A new session: at start, and when the peer was out of sight."""
        self.nonce = secrets.randbits(64)
        self.heard = None         # the peer's last head
        self.peer_have = {}       # what the peer holds, as its heads and its 250s tell
        self.told = None          # what the peer knows of this node
        self.hello_at = self.sums_at = 0.0
        self.seeding = None       # a seeding of the peer: {"upto", "after"}
        self.ask_items = []       # buckets whose items to send
        self.owed = []            # entities whose records to send
        self.mended = []          # entities in quarantine whose records go again, with a release
        self.refused = set()      # entities whose records the peer refuses
        self.probe, self.probe_at, self.echoed = 0, time.monotonic(), 0
        self.echo = None

    @property
    def started(self):
        return self.heard is not None and self.heard.get("answers") == self.nonce

    @property
    def finished(self):
        mine = self.replica
        return self.started and self.heard["have"] == mine.have and self.heard["digest"] == mine.digest()

    # Changes made here -------------------------------------------------------------------------------------

    def change(self, entity, effect):
        """Records an operation of this node. Audio it names was put into the replica before."""
        now = time.time_ns() // 1_000_000
        wall, count = self.clock
        # Later than every stamp seen, and than those of the record it changes.
        known = [order(s)[:2] for s in stamps_of(self.replica.records.get(entity, {}))]
        wall, count = max([(wall, count), *known])
        self.clock = (now, 0) if now > wall else (wall, count + 1)
        seq = self.replica.have.get(self.origin, 0) + 1
        at = {"wall": rfc3339(self.clock[0]), "count": self.clock[1]}
        stamp = {"origin": self.origin, "seq": seq, "at": at}
        self.replica.apply([{"stamp": stamp, "entity": entity, "effect": effect}])
        return seq

    # Taking ------------------------------------------------------------------------------------------------

    def take(self, manifest, audio):
        """Takes a verified mail, or raises `Refused`. Its 250 may go when this returns."""
        mine = self.replica
        for about, data in audio.values():
            mine.put_audio(about, data)
        for skip in manifest.get("skips", []):
            mine.skip(skip)
        mine.join_records(manifest.get("records", []), manifest.get("seed"))
        mine.apply(manifest["operations"])
        sent = {one["entity"]: one["record"] for one in manifest.get("records", [])}
        for entity in manifest.get("release", []):
            mine.release_with(entity, sent.get(entity, {}))
        if manifest.get("items"):
            self.owed += mine.compare(manifest["items"])
        for operation in manifest["operations"]:
            at = operation["stamp"]["at"]
            self.clock = max(self.clock, (milliseconds(at["wall"]), at["count"]))
        self.hear(manifest["head"])

    def hear(self, head):
        """The head of a mail: the peer's word on what it holds."""
        last = self.heard
        if last and last["session"] == head["session"]:
            same = head["have"] == last["have"]
            if (same and head["sent_at"] < last["sent_at"]) or not covers(head["have"], last["have"]):
                return  # older than what it said before
            self.peer_have = merged(self.peer_have, head["have"])
        else:
            self.peer_have = dict(head["have"])
            self.seeding = None
        self.heard = head
        if head.get("asks"):
            self.told = None      # it was made to forget what it was told
        if "probe" in head:
            self.echo = head["probe"]
        if head.get("echo") == self.probe:
            self.echoed = self.probe
        own = head["have"].get(self.origin, 0)
        if own > self.replica.have.get(self.origin, 0):
            self.origin = f"{self.me}.{secrets.token_hex(4)}"
        if "buckets" in head and head["have"] == self.replica.have and head["digest"] != self.replica.digest():
            ours = self.replica.buckets()
            pairs = ((n, slice(16 * n, 16 * n + 16)) for n in range(256))
            self.ask_items = [n for n, at in pairs if ours[at] != head["buckets"][at]]

    # Sending -----------------------------------------------------------------------------------------------

    def head(self):
        mine = self.replica
        head = {
            "version": VERSION, "id": str(uuid.uuid4()), "from": self.origin, "to": self.peer,
            "session": self.nonce, "have": dict(mine.have), "digest": mine.digest(),
            "sent_at": rfc3339(time.time_ns() // 1_000_000),
        }
        if self.heard:
            head["answers"] = self.heard["session"]
        if mine.seeding:
            head["seeding"] = dict(mine.seeding)
        if self.echo is not None:
            head["echo"] = self.echo
        if self.probe != self.echoed:
            head["probe"] = self.probe
        return head

    def word(self, head):
        """What a peer that heard `head` knows."""
        return {name: head.get(name) for name in ("session", "answers", "have", "digest", "seeding", "echo")}

    def next(self):
        """The next mail: head, further members of the manifest, audio; None when there is nothing to say."""
        probing = self.started and time.monotonic() > self.probe_at + PROBE_EVERY
        if probing:
            self.probe, self.probe_at = self.probe + 1, time.monotonic()
        head = self.head()
        if not self.started:
            if self.told == self.word(head) and time.monotonic() < self.hello_at + AGAIN:
                return None
            self.hello_at = time.monotonic()
            return head, {}, []
        members, audio = {}, []
        if self.heard["version"] != "1.0":
            members, audio = self.repair() or self.seed() or ({}, [])
        if not members:
            members, audio = self.operations()
        if members:
            return head, members, audio
        same, equal = self.heard["have"] == head["have"], self.heard["digest"] == head["digest"]
        if same and not equal and time.monotonic() > self.sums_at + SUMS_AGAIN:
            self.sums_at = time.monotonic()
            head["buckets"] = self.replica.buckets()
            return head, {}, []
        if probing or self.told != self.word(head):
            return head, {}, []
        return None

    def sent(self, mail, code):
        """What the reply to `mail` means (section 13)."""
        head, members, _ = mail
        if code == 250:
            self.told, self.refusals, self.batch = self.word(head), 0, min(2 * self.batch, MAIL_ENTRIES)
            for one in members.get("operations", []) + members.get("skips", []):
                stamp = one.get("stamp", one)
                if stamp["seq"]:
                    self.peer_have[stamp["origin"]] = max(self.peer_have.get(stamp["origin"], 0), stamp["seq"])
            if "items" in members:
                self.ask_items = []
            sent = {one["entity"] for one in members.get("records", [])}
            if "seed" not in members:
                self.owed = [entity for entity in self.owed if entity not in sent]
            for entity in members.get("release", []):
                self.replica.release(entity)
                self.mended.remove(entity)
            if "seed" in members:
                step = members["seed"]
                self.seeding = {"upto": step["upto"], "after": step.get("through")}
                if "through" not in step:
                    self.peer_have, self.seeding = merged(self.peer_have, step["upto"]), None
        elif code == 554 and self.batch > 1:
            self.batch //= 2
        elif code == 554:
            self.refusals += 1
            if self.refusals >= ALONE and members.get("operations"):
                self.leave_behind(members["operations"][0], REFUSED)
            elif self.refusals >= ALONE and members.get("records"):
                self.leave_out(members["records"][0]["entity"], "seed" in members)
        elif code == 451 and self.heard:
            self.peer_have = dict(self.heard["have"])

    def leave_behind(self, operation, why):
        """A skip in place of an operation that can't be sent or taken (section 9)."""
        stamp, entity = operation["stamp"], operation["entity"]
        self.replica.quarantine[entity] = why
        skip = {"origin": stamp["origin"], "seq": stamp["seq"], "entity": entity, "why": why}
        self.replica.log[stamp["origin"]][stamp["seq"]] = {"skip": skip}
        self.refusals = 0
        return skip

    def leave_out(self, entity, seeding):
        """A record the peer refuses: a seeding goes on without it; else it waits for the next comparison."""
        self.refusals = 0
        if seeding:
            self.replica.quarantine[entity] = REFUSED
            self.refused.add(entity)
        self.owed = [one for one in self.owed if one != entity]
        self.mended = [one for one in self.mended if one != entity]

    def operations(self):
        """What the peer lacks of the log, as much as goes into a mail."""
        operations, skips, audio, total = [], [], {}, 0
        for entry in list(self.replica.lacking(self.peer_have)):
            skip = entry.get("skip")
            if not skip and self.silent(entry):
                skip = self.leave_behind(entry, "its audio can't be read at this node")
            if skip:
                # Skips come before the operations of their mail, so behind operations it waits.
                if operations:
                    break
                skips.append(skip)
                continue
            named = self.attachments(entry["entity"], named_by(entry))
            total += sum(len(data) for _, data in named.values())
            full = len(operations) >= self.batch or total > MAIL_BYTES or len(audio | named) > MAIL_VOICES
            if operations and full:
                break
            operations.append(entry)
            audio |= named
        members = {name: value for name, value in (("skips", skips), ("operations", operations)) if value}
        return members, list(audio.values())

    def silent(self, operation):
        """Whether audio of an operation is missing here though the record still refers to it."""
        record = self.replica.records.get(operation["entity"], {})
        wanted = {audio["blob"] for audio in audio_of(record)}
        return any(a["blob"] in wanted and a["blob"] not in self.replica.audio for a in named_by(operation))

    def attachments(self, entity, named):
        """By blob, `about` and bytes of what audio objects name, as far as it is held."""
        fields = self.replica.records.get(entity, {}).get("f", {})
        more = {"entity": entity} | {name: fields[name][0] for name in ("mailbox", "facts") if name in fields}
        held = {one["blob"]: self.replica.audio.get(one["blob"]) for one in named}
        return {blob: (about_data[0] | more, about_data[1]) for blob, about_data in held.items() if about_data}

    def records(self, entities):
        """`records` of these entities, as many as go into a mail, with audio."""
        listed, audio, total = [], {}, 0
        for entity in entities:
            record = self.replica.records[entity]
            named = self.attachments(entity, audio_of(record))
            total += sum(len(data) for _, data in named.values())
            full = len(listed) >= self.batch or total > MAIL_BYTES or len(audio | named) > MAIL_VOICES
            if listed and full:
                break
            listed.append({"entity": entity, "record": record})
            audio |= named
        return listed, list(audio.values())

    def seed(self):
        """A step of a seeding, when the peer lacks what the log no longer has (section 7)."""
        mine = self.replica
        if covers(self.peer_have, mine.floor):
            self.seeding = None
            return None
        heard = self.heard.get("seeding")
        if not self.seeding:
            resumed = heard and covers(mine.have, heard["upto"])
            self.seeding = dict(heard) if resumed else {"upto": dict(mine.have), "after": None}
        after, held = self.seeding.get("after"), dict(self.peer_have)
        rest = [
            entity for entity, record in sorted(mine.records.items())
            if (after is None or entity > after) and beyond(record, held)
        ]
        listed, audio = self.records([entity for entity in rest if entity not in self.refused])
        step = {"upto": self.seeding["upto"], "beyond": held}
        if after is not None:
            step["after"] = after
        left_out = self.refused.intersection(rest)
        if len(listed) + len(left_out) < len(rest):
            step["through"] = listed[-1]["entity"]
            left_out = {entity for entity in left_out if entity <= step["through"]}
        members = {"seed": step} | ({"records": listed} if listed else {})
        if left_out:
            skip = {"origin": self.origin, "seq": 0, "why": REFUSED}
            members["skips"] = [skip | {"entity": entity} for entity in sorted(left_out)]
        return members, audio

    def repair(self):
        """Items of buckets that differ, or records of those the peer lacks (section 8)."""
        if self.ask_items:
            return {"items": self.replica.bucket_items(self.ask_items)}, []
        if self.owed:
            listed, audio = self.records(sorted(set(self.owed)))
            return {"records": listed}, audio
        if self.mended:
            listed, audio = self.records(self.mended)
            return {"records": listed, "release": [one["entity"] for one in listed]}, audio
        return None


def named_by(operation):
    """The audio objects that an operation sets."""
    fields = operation["effect"]["set"] if operation["effect"] != "delete" else {}
    return [value for value in fields.values() if isinstance(value, dict) and "blob" in value]
