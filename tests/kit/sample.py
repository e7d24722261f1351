#!/usr/bin/env python3
"""A minimal node over file drop, to read beside docs/protocol.md: it takes lanes from its superior and sends one of its own.

`sample.py CONFIG`, with the configuration that `jincai kit` writes (docs/kit.md). It needs Python 3.11, `cbor2` and `cryptography`. It
trusts the cards in its configuration, and leaves out inferiors, dead letters, late batches, restores, `bad/` and offers of slots.
"""
import cbor2, hashlib, hmac, json, os, pathlib, re, secrets, struct, sys, time
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

FRAME_BYTES, NONCE, START = (1 << 20) + (4 << 10), bytes(12), [[0, 0], 0, bytes(32)]

# Notation.
def check(holds, why):
    if not holds:
        raise ValueError(why)
def encode(value):
    return cbor2.dumps(value, canonical=True)
def decode(data):
    value = cbor2.loads(data)
    check(encode(value) == data, "CBOR that is not canonical")
    return value
def text_of(lane):
    origin, (kind, [authority, *level]), priority = lane
    group = ["", "below:", "superiors:", "provinces:", "cities:", "counties:"][kind + (level[0] - 1 if level else 0)]
    return f"{origin}>{group}{authority}/{['control', 'interactive', 'record', 'bulk'][priority]}"

# Hashes, signatures, encryption.
def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()
def mac(key, *parts):
    return hmac.digest(key, b"".join(parts), "sha256")
def raw(public):
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw)
def protected(purpose, public):
    return encode({1: -8, 3: f"application/vnd.jincai.{purpose}+cbor", 4: sha(raw(public))[:8]})

def sign(purpose, value, key):
    header, payload = protected(purpose, key.public_key()), encode(value)
    return encode([header, {}, payload, key.sign(encode(["Signature1", header, b"", payload]))])

def verify(purpose, signed, public):
    header, rest, payload, signature = decode(signed)
    check((header, rest) == (protected(purpose, public), {}), f"{purpose}: another key, algorithm or purpose")
    public.verify(signature, encode(["Signature1", header, b"", payload]))
    return payload

def wrapping_cipher(shared, encapsulated, reader, digest):
    """RFC 9180: base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM; the key exported for a statement."""
    kem, suite = b"HPKE-v1KEM\x00\x20", b"HPKE-v1HPKE\x00\x20\x00\x01\x00\x02"
    def expand(of, key, label, info):
        return mac(key, b"\x00\x20", of, label, info, b"\x01")
    secret = expand(kem, mac(b"", kem, b"eae_prk", shared), b"shared_secret", encapsulated + reader)
    context = b"\0" + mac(b"", suite, b"psk_id_hash") + mac(b"", suite, b"info_hash", b"jincai/wraps/1")
    exporter = expand(suite, mac(secret, suite, b"secret"), b"exp", context)
    return AESGCM(expand(suite, exporter, b"sec", b"jincai/wrap/1\0" + digest))

def item_cipher(content_key, index):
    return AESGCM(mac(mac(b"", content_key), b"jincai/item/1\0", struct.pack(">Q", index), b"\x01"))

def merkle(items):
    if len(items) == 1:
        [[attributes, content, commitment]] = items
        return sha(b"\0", sha(attributes), sha(content), commitment or sha(content))
    cut = 1 << (len(items) - 1).bit_length() - 1
    return sha(b"\1", merkle(items[:cut]), merkle(items[cut:]))

def seal(lane, epoch, previous, messages, me, readers):
    """The bytes of a batch to one authority."""
    first, content_key, items, wraps = previous[1] + 1 if previous[0] == epoch else 1, secrets.token_bytes(32), [], []
    for index, (attributes, payload) in enumerate(messages):
        plain = secrets.token_bytes(16) + payload
        content = item_cipher(content_key, index).encrypt(NONCE, plain, encode([lane, epoch, first + index]))
        items.append([encode(attributes), content, sha(plain)])
    statement = [1, 1, lane, epoch, first, first + len(items) - 1, previous, merkle(items), True, int(time.time() * 1000)]
    digest = sha(b"jincai/statement/1\0", encode(statement))
    for authority, key in readers:
        own = X25519PrivateKey.generate()
        cipher = wrapping_cipher(own.exchange(key), raw(own.public_key()), raw(key), digest)
        wraps.append([authority, raw(own.public_key()) + cipher.encrypt(NONCE, content_key, None)])
    return encode([1, sign("statement", statement, me), sign("wraps", [1, digest, wraps], me), items])

def place(batch):
    """What a batch says of itself, unverified, and its end on the lane."""
    payload = decode(decode(batch)[1])[2]
    statement = decode(payload)
    return statement, [statement[3], statement[5], sha(b"jincai/statement/1\0", payload)]

def write(file, content):
    file.write(content)
    file.flush()
    os.fsync(file.fileno())

class Lines:
    """A file of JSON lines; what a crash left of the last one is cut off."""
    def __init__(self, path):
        self.file = open(path, "ab+")
        self.file.seek(0)
        whole, end, _ = self.file.read().rpartition(b"\n")
        self.file.truncate(len(whole + end))
        self.found = [json.loads(line) for line in whole.splitlines()]
    def add(self, line):
        write(self.file, json.dumps(line).encode() + b"\n")

class Node:
    def __init__(self, config):
        self.config, self.me, self.peer = config, config["authority"], config["peer"]
        self.key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(config["signing_key"]))
        self.secret = X25519PrivateKey.from_private_bytes(bytes.fromhex(config["encryption_key"]))
        *above, _ = [decode(decode(bytes.fromhex(card))[2])[1] for card in config["cards"]]
        level = 3 - (self.me[4:6] == "00") - (self.me[2:6] == "0000")
        self.to_us = [[0, [self.me]], *([1, [a]] for a in above), *([3, [a, level]] for a in above)]
        keys = decode(decode(bytes.fromhex(config["peer_cards"][-1]))[2])[4]
        self.peer_key, self.peer_encryption = Ed25519PublicKey.from_public_bytes(keys[0]), X25519PublicKey.from_public_bytes(keys[1])
        self.chains, self.held, self.owed, self.due, self.signed_at, self.messages = {}, set(), [], {}, 0, 0
        self.lane, self.end, self.custody, self.sent_ids = [self.me, [0, [self.peer]], 2], START, [], set()
        self.epoch, self.records, self.run, self.counter = [0, 0], 0, secrets.randbits(64), time.time_ns()
        self.applied, self.journal = Lines(config["applied"]), Lines(os.path.join(config["data"], "journal"))
        for record in self.journal.found:
            self.replay(*record)
        self.record("epoch", [max(self.epoch[0] + 1, int(time.time() * 1000)), secrets.randbits(64)])
    def record(self, kind, value):
        """Makes durable what was decided; only then does it change anything, and is anybody told."""
        self.journal.add([kind, value])
        self.replay(kind, value)

    def replay(self, kind, value):
        self.records += 1
        match kind:
            case "epoch": self.epoch = value
            case "batch": self.take(bytes.fromhex(value))
            case "fork": self.held.add(value)
            case "cleared": self.custody = [entry for entry in self.custody if entry["end"][:2] > value]
            case "sealed":
                ident, batch = value[0], bytes.fromhex(value[1])
                statement, self.end = place(batch)
                self.custody.append({"batch": batch, "previous": statement[6], "end": self.end, "sent": 0})
                self.sent_ids.add(ident)
    # Receiving.
    def verify_batch(self, batch):
        version, signed, wraps, items = decode(batch)
        verify("statement", signed, self.peer_key)
        statement, end = place(batch)
        lane, epoch, first, last, previous, root, encrypted, _ = statement[2:]
        check([version, *statement[:2]] == [1, 1, 1] and lane[0] == self.peer, "another version, suite or origin")
        check(lane[1] in self.to_us, "for somebody else")
        check(1 <= first <= last == first + len(items) - 1 <= first + 1023, "another count")
        check(previous[1] + 1 == first if previous[0] == epoch else previous[0] < epoch and first == 1, "no continuation")
        check(root == merkle(items), "messages that are not those signed")
        check(encrypted == (lane[1][0] == 0) and all(len(item[2]) == 32 * encrypted for item in items), "wrongly encrypted")
        check(not encrypted or decode(verify("wraps", wraps, self.peer_key))[1] == end[2], "keys of another batch")

    def open(self, batch):
        """The messages of a batch that was verified."""
        (_, _, wraps, items), (statement, end) = decode(batch), place(batch)
        lane, epoch, first = statement[2:5]
        if not statement[8]:
            return [(decode(attributes), content) for attributes, content, _ in items]
        wrapped = dict(decode(decode(wraps)[2])[2])[self.me]
        shared = self.secret.exchange(X25519PublicKey.from_public_bytes(wrapped[:32]))
        cipher = wrapping_cipher(shared, wrapped[:32], raw(self.secret.public_key()), end[2])
        content_key, messages = cipher.decrypt(NONCE, wrapped[32:], None), []
        for index, (attributes, content, commitment) in enumerate(items):
            plain = item_cipher(content_key, index).decrypt(NONCE, content, encode([lane, epoch, first + index]))
            check(sha(plain) == commitment, "another payload than the one signed")
            messages.append((decode(attributes), plain[16:]))
        return messages

    def chain(self, lane):
        return self.chains.setdefault(text_of(lane), {"end": START, "ends": {}, "waits": False})

    def judge(self, lane, previous, new, after):
        end, ends = self.chain(lane)["end"], self.chain(lane)["ends"]
        known = ends.get((*new[0], new[1]))
        if new[:2] <= end[:2]:
            check(known or new[0] == end[0], "it comes late")
            return "duplicate" if known == new[2] else "fork"
        if previous[:2] > end[:2] or (new[0] != end[0] and after[:2] > end[:2]):
            return "gap"
        there = START[2] if previous == START else ends.get((*previous[0], previous[1]))
        return "new" if there == previous[2] and (new[0] != end[0] or previous == end) else "fork"

    def on_batch(self, after, batch):
        self.verify_batch(batch)
        (_, _, lane, *_, previous, _, _, _), end = place(batch)
        verdict = self.judge(lane, previous, end, after)
        check(verdict == "duplicate" or text_of(lane) not in self.held, "its lane is held")
        match verdict:
            case "gap": return self.say(0, [4, [lane, self.chain(lane)["end"]]])
            case "fork": return self.record("fork", text_of(lane))
            case "new": self.open(batch) and self.record("batch", batch.hex())
        self.owed.append([lane, end, 0])

    def take(self, batch):
        """Moves a lane on by a batch that is new, and applies it unless the lane waits."""
        (statement, end), messages = place(batch), self.open(batch)
        lane, epoch, first, last = statement[2:6]
        chain = self.chain(lane)
        chain["end"], chain["ends"][(*epoch, last)] = end, end[2]
        for sequence, (attributes, payload) in enumerate(messages, first):
            # There are no releases, specs or bulk parts here: whatever is required does not hold.
            chain["waits"] = chain["waits"] or "requires" in attributes
            if chain["waits"]:
                return
            # What was applied follows from the journal: after a restart its file gets only what it lacks.
            self.messages += 1
            if self.messages > len(self.applied.found):
                self.applied.add({"lane": text_of(lane), "sequence": sequence, "id": attributes["id"], "payload": payload.hex()})
        self.due[text_of(lane)] = [lane, end, 0]

    def sign_receipts(self):
        if (not self.owed and not self.due) or time.monotonic() - self.signed_at < self.config["receipt_ms"] / 1000:
            return
        for at in range(0, len(self.owed), 1000):
            receipts = [1, self.me, self.epoch, self.peer, self.owed[at:at + 1000]]
            self.say(0, [3, [sign("receipts", receipts, self.key)]])
        for name, receipt in self.due.items():
            slot = [1, self.me, self.epoch, f"receipt:{name}", self.records, [0, [self.peer]], encode(receipt)]
            self.say(0, [5, [sign("slot", slot, self.key)]])
        self.owed, self.due, self.signed_at = [], {}, time.monotonic()

    # Sending.
    def submit(self):
        for name in sorted(name for name in os.listdir(self.config["submit"]) if name.endswith(".json")):
            path = pathlib.Path(self.config["submit"], name)
            message = json.loads(path.read_bytes())
            if message["id"] not in self.sent_ids:
                now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
                attributes = {"id": message["id"], "source": self.me, "type": message["type"], "specversion": "1.0", "time": now}
                messages = [(attributes, bytes.fromhex(message["payload"]))]
                readers = [(self.peer, self.peer_encryption), (self.me, self.secret.public_key())]
                self.record("sealed", [message["id"], seal(self.lane, self.epoch, self.end, messages, self.key, readers).hex()])
            path.unlink()

    def send(self):
        for entry in self.custody:
            if not entry["sent"] or time.monotonic() - entry["sent"] > self.config["retry_ms"] / 1000:
                entry["sent"] = time.monotonic()
                self.say(2, [1, [[self.custody[0]["previous"], entry["previous"]], entry["batch"]]])

    def on_receipt(self, lane, position):
        if lane == self.lane and any(entry["end"] == position for entry in self.custody):
            self.record("cleared", position[:2])

    # The link.
    def on_frame(self, frame):
        match decode(frame):
            case [0, [low, high, authority, _, heard, _, _]]:
                check(authority == self.peer and low <= 1 <= high, "another neighbour, or another version")
                if not heard:
                    self.say(0, [0, [1, 1, self.me, self.epoch, True, [0, 0], False]])
            case [1, [[_, after], batch]]: self.on_batch(after, batch)
            case [3, [signed]]:
                version, issuer, _, neighbour, receipts = decode(verify("receipts", signed, self.peer_key))
                check([version, issuer, neighbour] == [1, self.peer, self.me], "receipts of or for somebody else")
                for lane, position, _ in receipts:
                    self.on_receipt(lane, position)
            case [4, [lane, have]] if lane == self.lane:
                for entry in self.custody:
                    entry["sent"] = 0 if entry["end"][:2] > have[:2] else entry["sent"]
            case [5, [signed]]:
                # A neighbour that is our destination signs for having applied: it says so in no list.
                version, issuer, _, name, _, _, value = decode(verify("slot", signed, self.peer_key))
                if [version, issuer, name] == [1, self.peer, f"receipt:{text_of(self.lane)}"]:
                    self.on_receipt(*decode(value)[:2])
            case [kind, _]: check(kind < 10, "a frame of an unknown kind")

    def say(self, priority, frame):
        self.counter += 1
        name, folder, content = f"{priority}-{self.counter:016x}-{self.run:016x}.frame", self.config["outgoing"], encode(frame)
        part = os.path.join(folder, f".{name}.part")
        with open(part, "wb") as file:
            write(file, b"JCP1" + struct.pack(">I", len(content)) + sha(content) + content)
        os.rename(part, os.path.join(folder, name))
        directory = os.open(folder, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)

    def look(self):
        entry = re.compile(r"[0-3]-[0-9a-f]{16}-[0-9a-f]{16}\.frame")
        for name in sorted(filter(entry.fullmatch, os.listdir(self.config["incoming"]))):
            path = os.path.join(self.config["incoming"], name)
            with open(path, "rb") as file:
                head, frame = file.read(40), file.read(FRAME_BYTES + 1)
            if not 0 < len(frame) <= FRAME_BYTES or head != b"JCP1" + struct.pack(">I", len(frame)) + sha(frame):
                continue  # not whole yet
            try:
                self.on_frame(frame)
            except Exception as error:  # whatever a neighbour says must not end the node
                print(f"refused: {error or type(error).__name__}", file=sys.stderr, flush=True)
            os.remove(path)

if __name__ == "__main__":
    node = Node(json.loads(pathlib.Path(sys.argv[1]).read_bytes()))
    while True:
        for work in (node.look, node.submit, node.sign_receipts, node.send):
            work()
        time.sleep(0.02)
