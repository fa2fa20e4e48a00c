"""What a node holds, as docs/wire-format.md defines it: operations, records, their join, and the digest.

Section numbers are those of docs/wire-format.md. All of it is kept in memory: a peer that starts anew has
forgotten everything, takes a new incarnation, and is given back what it held (section 5).
"""

import datetime
import hashlib
import json
import re
import struct


class Refused(Exception):
    """A mail, or a part of it, that is not taken: the reply of section 13."""

    def __init__(self, reply, why):
        super().__init__(f"{reply} {why}")
        self.reply = f"{reply} {why}"


def canonical(value):
    """JSON with sorted keys and no white space (section 11), as bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


# Stamps -----------------------------------------------------------------------------------------------------

def milliseconds(rfc3339):
    """Milliseconds since 1970 of a time such as 2026-11-22T08:00:00.250Z."""
    when = datetime.datetime.fromisoformat(rfc3339.replace("Z", "+00:00"))
    since = when - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
    return since // datetime.timedelta(milliseconds=1)


def rfc3339(ms):
    """The time so many milliseconds after 1970, in UTC with milliseconds."""
    when = datetime.datetime(1970, 1, 1) + datetime.timedelta(milliseconds=ms)
    return when.isoformat(timespec="milliseconds") + "Z"


def stamp_text(stamp):
    """A stamp as records write it: MILLISECONDS.COUNT@ORIGIN#SEQ."""
    at = stamp["at"]
    return f"{milliseconds(at['wall'])}.{at['count']}@{stamp['origin']}#{stamp['seq']}"


def stamp_parts(text):
    """Milliseconds, count, origin, number of a stamp in a record."""
    found = re.fullmatch(r"(\d+)\.(\d+)@([^#]+)#(\d+)", text)
    if not found:
        raise Refused("554 5.6.0", f"no stamp: {text}")
    return int(found[1]), int(found[2]), found[3], int(found[4])


def order(text):
    """What stamps are compared by: milliseconds, count, node, incarnation, number."""
    ms, count, origin, seq = stamp_parts(text)
    node, _, incarnation = origin.rpartition(".")
    return ms, count, node, incarnation, seq


# Vectors ----------------------------------------------------------------------------------------------------

def covers(vector, other):
    """Whether `vector` holds all that `other` does."""
    return all(vector.get(origin, 0) >= seq for origin, seq in other.items())


def merged(a, b):
    """The larger number of each origin."""
    return {origin: max(a.get(origin, 0), b.get(origin, 0)) for origin in {*a, *b}}


def covered(vector, stamp):
    """Whether the operation of this stamp is among those `vector` counts."""
    _, _, origin, seq = stamp_parts(stamp)
    return vector.get(origin, 0) >= seq


# Records ----------------------------------------------------------------------------------------------------

def of_versions(entity):
    """Whether an entity is kept by whole versions."""
    return entity.startswith(("greeting/", "flow/"))


def record_of(operation):
    """The record an operation makes; applying it is joining that."""
    stamp, effect = stamp_text(operation["stamp"]), operation["effect"]
    if effect == "delete":
        return {"d": stamp}
    fields = dict(effect["set"])
    if of_versions(operation["entity"]):
        # An origin has always seen its own versions, also where it does not say so.
        own = {operation["stamp"]["origin"]: operation["stamp"]["seq"] - 1}
        replaced = merged(fields.pop("based_on", {}), own)
        return {"c": {o: seq for o, seq in replaced.items() if seq}, "v": [{"s": stamp, "f": fields}]}
    return {"f": {name: [value, stamp] for name, value in fields.items()}}


def join(entity, a, b):
    """Two records of one entity, joined (section 11)."""
    deleted = max(filter(None, (a.get("d"), b.get("d"))), key=order, default=None)
    fields = dict(a.get("f", {}))
    for name, (value, stamp) in b.get("f", {}).items():
        mine = fields.get(name)
        if not mine or (order(stamp), canonical(value)) > (order(mine[1]), canonical(mine[0])):
            fields[name] = [value, stamp]
    counts = merged(a.get("c", {}), b.get("c", {}))
    versions = {}
    for version in a.get("v", []) + b.get("v", []):
        if not covered(counts, version["s"]):
            mine = versions.get(version["s"])
            versions[version["s"]] = max(mine or version, version, key=canonical)
    if deleted and entity.startswith("message/"):
        fields = {}
    elif deleted:
        fields = {n: f for n, f in fields.items() if order(f[1]) > order(deleted)}
        versions = {s: v for s, v in versions.items() if order(s) > order(deleted)}
    # Recovered from an audio file alone (a stamp of 1970): stands only while no other does.
    if any(stamp_parts(s)[0] for s in versions):
        versions = {s: v for s, v in versions.items() if stamp_parts(s)[0]}
    latest_first = [versions[s] for s in sorted(versions, key=order, reverse=True)]
    whole = {"f": fields, "d": deleted, "v": latest_first, "c": counts}
    return {member: value for member, value in whole.items() if value}


def beyond(record, vector):
    """Whether a record says something that who holds `vector` may lack (section 7)."""
    stamped = any(not covered(vector, stamp) for stamp in stamps_of(record))
    counts = record.get("c", {})
    return stamped or any(seq >= vector.get(origin, 0) for origin, seq in counts.items()) or bool("d" in record and counts)


def stamps_of(record):
    """All stamps a record bears."""
    yield from (stamp for _, stamp in record.get("f", {}).values())
    yield from (version["s"] for version in record.get("v", []))
    if "d" in record:
        yield record["d"]


def audio_of(record):
    """The audio objects a record names."""
    found = [value for value, _ in record.get("f", {}).values()]
    for version in record.get("v", []):
        found += version["f"].values()
    return [value for value in found if isinstance(value, dict) and "blob" in value]


# The replica ------------------------------------------------------------------------------------------------

class Replica:
    """One node's state. Not for several threads at once: the caller holds a lock."""

    def __init__(self):
        self.have = {}        # vector: all held, without gaps
        self.floor = {}       # vector: up to there the log is gone, and records alone tell
        self.log = {}         # origin: {number: operation, or skip}
        self.records = {}     # entity: record
        self.audio = {}       # blob: (about, bytes)
        self.quarantine = {}  # entity: why
        self.seeding = None   # {"upto": vector, "after": entity}

    # Taking, in the order of section 5: audio, skips, records, operations, releases.

    def put_audio(self, about, data):
        self.audio[about["blob"]] = (about, data)

    def skip(self, skip):
        origin, seq = skip["origin"], skip["seq"]
        self.quarantine[skip["entity"]] = skip["why"][:300]
        if seq and seq > self.have.get(origin, 0):
            self._next(origin, seq)
            self.log.setdefault(origin, {})[seq] = {"skip": skip}

    def apply(self, operations):
        """All of them or none."""
        have, records, new = dict(self.have), {}, []
        for number, operation in enumerate(operations):
            origin, seq = operation["stamp"]["origin"], operation["stamp"]["seq"]
            if seq <= have.get(origin, 0):
                continue
            if seq != have.get(origin, 0) + 1:
                raise Refused("451 4.3.0", f"operation {number}: {origin} #{seq} after {have.get(origin, 0)}")
            have[origin] = seq
            entity = operation["entity"]
            before = records.get(entity, self.records.get(entity, {}))
            records[entity] = join(entity, before, record_of(operation))
            new.append(operation)
        self._audio_is_there(records)
        # What nothing is known of is no record.
        records = {entity: record for entity, record in records.items() if record}
        for operation in new:
            self.log.setdefault(operation["stamp"]["origin"], {})[operation["stamp"]["seq"]] = operation
        self.have = have
        self.records.update(records)

    def join_records(self, listed, seed):
        joined = {}
        for one in listed:
            entity = one["entity"]
            before = joined.get(entity, self.records.get(entity, {}))
            joined[entity] = join(entity, before, one["record"])
        self._audio_is_there(joined)
        self.records.update(joined)
        if seed:
            self._seed(seed)

    def release(self, entity):
        self.quarantine.pop(entity, None)

    def release_with(self, entity, record):
        """A release of the peer, which holds `record` (joined here): only who holds all of it ends a quarantine (section 9)."""
        if self.records.get(entity, {}) != join(entity, {}, record):
            raise Refused("554 5.6.0", f"{entity}: more is held here")
        self.release(entity)

    def _next(self, origin, seq):
        if seq != self.have.get(origin, 0) + 1:
            raise Refused("451 4.3.0", f"{origin} #{seq} after {self.have.get(origin, 0)}")
        self.have[origin] = seq

    def _audio_is_there(self, records):
        for entity, record in records.items():
            for audio in audio_of(record):
                if audio["blob"] not in self.audio and entity not in self.quarantine:
                    raise Refused("554 5.6.0", f"{entity}: its audio {audio['blob']} is missing")

    def _seed(self, seed):
        """A step of a seeding (section 7)."""
        upto, after, through = seed["upto"], seed.get("after", ""), seed.get("through")
        at = self.seeding["after"] if self.seeding and self.seeding["upto"] == upto else ""
        if covers(self.have, upto) or not covers(self.have, seed.get("beyond", {})):
            return
        if after > at or (through is not None and through <= at):
            return
        if through is not None:
            self.seeding = {"upto": upto, "after": through}
            return
        self.seeding = None
        for origin, seq in upto.items():
            if seq > self.have.get(origin, 0):
                self.have[origin] = self.floor[origin] = seq
                self.log.pop(origin, None)

    def seen(self):
        """The last number of each origin that is known to have been given."""
        seen = dict(self.have)
        for record in self.records.values():
            for _, _, origin, seq in map(stamp_parts, stamps_of(record)):
                seen[origin] = max(seen.get(origin, 0), seq)
        return seen

    # Telling.

    def lacking(self, vector):
        """Log entries that who holds `vector` lacks, ascending by origin."""
        for origin, entries in sorted(self.log.items()):
            for seq in range(vector.get(origin, 0) + 1, self.have[origin] + 1):
                yield entries[seq]

    def items(self):
        """Entity: SHA-256 of key, zero byte and canonical record, of what counts in the digest."""
        counted = ((e, r) for e, r in self.records.items() if e not in self.quarantine)
        return {e: hashlib.sha256(e.encode() + b"\0" + canonical(r)).digest() for e, r in counted}

    def sums(self):
        """The 256 buckets, each four numbers."""
        sums = [[0, 0, 0, 0] for _ in range(256)]
        for entity, item in self.items().items():
            bucket = sums[bucket_of(entity)]
            for n, part in enumerate(struct.unpack("<4Q", item)):
                bucket[n] = (bucket[n] + part) % 2**64
        return sums

    def digest(self):
        return hashlib.sha256(b"".join(struct.pack("<4Q", *bucket) for bucket in self.sums())).hexdigest()

    def buckets(self):
        """The sums as a head tells them."""
        return "".join(f"{bucket[0]:016x}" for bucket in self.sums())

    def bucket_items(self, numbers):
        """`items` of a manifest: all that is held in these buckets."""
        listed = {number: [] for number in numbers}
        for entity, item in sorted(self.items().items()):
            if bucket_of(entity) in listed:
                one = {"entity": entity, "hash": item.hex()[:16]}
                if any(a["blob"] not in self.audio for a in audio_of(self.records[entity])):
                    one["lacks_audio"] = True
                listed[bucket_of(entity)].append(one)
        return [{"bucket": number, "items": items} for number, items in listed.items()]

    def compare(self, listed):
        """Entities of ours to send to who holds the items `listed` (section 8)."""
        mine, send = self.items(), []
        for bucket in listed:
            theirs = {item["entity"]: item for item in bucket["items"]}
            for entity in sorted(e for e in mine if bucket_of(e) == bucket["bucket"]):
                there = theirs.get(entity)
                has_audio = all(a["blob"] in self.audio for a in audio_of(self.records[entity]))
                lacks = there and there.get("lacks_audio") and has_audio
                if not there or there["hash"] != mine[entity].hex()[:16] or lacks:
                    send.append(entity)
        return send


def bucket_of(entity):
    """The first byte of the SHA-256 of its key."""
    return hashlib.sha256(entity.encode()).digest()[0]
