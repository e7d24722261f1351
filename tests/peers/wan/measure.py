"""What tests/peers/wan.sh measures."""

import base64
import itertools
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
JINCAI = os.environ["JINCAI"]
RUNS = int(os.environ.get("RUNS", "3"))
SECONDS = float(os.environ.get("SECONDS_EACH", "15"))
RATE = 100_000_000
# A queue of one round trip at the narrow place, as its operator would set it.
LINE = {"way": "both", "rate": RATE, "delay": 0.05, "buffer": 0.1}
LOSSY = {**LINE, "loss": 0.01}
MESSAGES, MESSAGE = 100, 700_000
MINISTRY, PROVINCE = "000000000", "370000000"
PORT = 7480


def say(text):
    print(text, file=sys.stderr, flush=True)


class Wire:
    """Two namespaces and the wire between them."""

    def __init__(self):
        self.ends = [f"jcwan{os.getpid()}{end}" for end in "ab"]
        for end in self.ends:
            subprocess.run(["ip", "netns", "add", end], check=True)
        command = [sys.executable, os.path.join(ROOT, "tests/network/shaper.py"), *self.ends]
        self.shaper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.hear("ready")

    def hear(self, wanted):
        line = self.shaper.stdout.readline().strip()
        assert line == wanted, f"the shaper says {line!r}"

    def shape(self, change):
        self.shaper.stdin.write(json.dumps(change) + "\n")
        self.shaper.stdin.flush()
        self.hear("done")

    def within(self, end, command, **options):
        return subprocess.Popen(["ip", "netns", "exec", self.ends[end], *command], **options)

    def close(self):
        self.shaper.kill()
        self.shaper.wait()
        for end in self.ends:
            subprocess.run(["ip", "netns", "del", end], check=False)


def tcp_receives(port):
    """Counts what arrives on one connection, and says so at its end."""
    listener = socket.create_server(("10.99.0.2", port))
    print("ready", flush=True)
    connection, _ = listener.accept()
    total, begun = 0, time.monotonic()
    while data := connection.recv(1 << 20):
        total += len(data)
    print(json.dumps({"bytes": total, "seconds": time.monotonic() - begun}), flush=True)


def tcp_sends(control, port):
    """Sends until it is killed."""
    with socket.socket() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, control.encode())
        connection.connect(("10.99.0.2", port))
        while True:
            connection.sendall(bytes(1 << 16))


class Tcp:
    """One TCP connection that sends from the first end to the second all it can."""

    ports = itertools.count(5201)

    def __init__(self, wire, control):
        this, port = [sys.executable, os.path.abspath(__file__)], str(next(self.ports))
        self.receiver = wire.within(1, [*this, "receive", port], stdout=subprocess.PIPE, text=True)
        assert self.receiver.stdout.readline().strip() == "ready"
        self.sender = wire.within(0, [*this, "send", control, port])

    def mbits(self, seconds=0.0):
        """What has arrived after so many seconds more."""
        time.sleep(seconds)
        self.sender.kill()
        self.sender.wait()
        said = json.loads(self.receiver.stdout.readline())
        self.receiver.wait()
        return said["bytes"] * 8 / said["seconds"] / 1e6


class Nodes:
    """A ministry and a province, enrolled, each at one end of the wire."""

    def __init__(self, wire, directory):
        self.wire, self.running, self.files, self.sent = wire, [], [], 0
        for name, authority, peer, address in (
            ("ministry", MINISTRY, PROVINCE, ""),
            ("province", PROVINCE, MINISTRY, 'address = "10.99.0.1:7000"\n'),
        ):
            data, file = os.path.join(directory, name), os.path.join(directory, f"{name}.toml")
            with open(file, "w", encoding="utf-8") as out:
                out.write(
                    f'authority = "{authority}"\ndata = "{data}"\n[http]\nlisten = "127.0.0.1:{PORT}"\n'
                    f'[quic]\nlisten = "0.0.0.0:7000"\n[[link]]\npeer = "{peer}"\ntransport = "quic"\n{address}'
                )
            self.files.append((file, data))
            self.command("init", "--config", file)
        (above, _), (below, data) = self.files
        bundle = os.path.join(data, "enrolment.bundle")
        request = os.path.join(data, "enrolment.request")
        self.command("enrol", "sign", "--config", above, "--request", request, "--out", bundle)
        self.command("enrol", "accept", "--config", below, bundle)
        for end, (file, _) in enumerate(self.files):
            log = open(file + ".log", "w", encoding="utf-8")
            self.running.append(wire.within(end, [JINCAI, "run", "--config", file], stderr=log, stdout=log))
        self.wait("the link", lambda: len(self.get(0, "status")["authorities"]) == 2 and self.links_up())

    def links_up(self):
        return all(self.get(end, "links")["links"][0]["up"] for end in (0, 1))

    @staticmethod
    def command(*arguments):
        done = subprocess.run([JINCAI, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def request(self, end, path, *arguments):
        file, data = self.files[end]
        with open(os.path.join(data, "token"), encoding="utf-8") as token:
            header = f"authorization: Bearer {token.read().strip()}"
        command = ["curl", "-s", "-H", header, "-H", "content-type: application/json", *arguments]
        asked = self.wire.within(end, [*command, f"http://127.0.0.1:{PORT}/api/v1/{path}"], stdout=subprocess.PIPE)
        answer, _ = asked.communicate()
        return json.loads(answer) if answer else None

    def get(self, end, path):
        return self.request(end, path) or {"authorities": [], "links": [{"up": False}], "notes": 0}

    def wait(self, what, ready, seconds=120):
        end = time.monotonic() + seconds
        while not ready():
            assert time.monotonic() < end, f"waited {seconds} s for {what}"
            time.sleep(0.05)

    def hold(self, verb):
        (file, _), who = self.files[0], ["--by", "wan.sh", "--reason", "a measurement"]
        command = [JINCAI, "queue", verb, "--peer", PROVINCE, *who, "--config", file]
        assert self.wire.within(0, command, stdout=subprocess.DEVNULL).wait() == 0

    def fill(self):
        """Queues messages for the other end."""
        self.hold("hold")
        body = os.path.join(os.path.dirname(self.files[0][0]), "message.json")
        for _ in range(MESSAGES):
            text = base64.b64encode(os.urandom(MESSAGE * 3 // 4)).decode()
            self.sent += 1
            with open(body, "w", encoding="utf-8") as out:
                json.dump({"to": PROVINCE, "id": f"wan-{self.sent}", "text": text}, out)
            self.request(0, "messages", "--data-binary", f"@{body}")

    def mbits(self):
        """Payload a second from the release of the queue until the last message is applied at the other end."""
        begun = time.monotonic()
        self.hold("release")
        self.wait("all messages", lambda: self.get(1, "status")["notes"] >= self.sent, 600)
        return MESSAGES * MESSAGE * 8 / (time.monotonic() - begun) / 1e6

    def stop(self):
        for process in self.running:
            process.terminate()
        for process in self.running:
            process.wait()


def alone(nodes):
    nodes.fill()
    return nodes.mbits()


def beside(wire, nodes, control, other):
    """What a TCP connection gets of a line, and what another one does, or a node that empties its queue."""
    if other == "jincai":
        nodes.fill()
        tcp = Tcp(wire, control)
        theirs = nodes.mbits()
    else:
        tcp, second = Tcp(wire, control), Tcp(wire, other)
        theirs = second.mbits(SECONDS)
    return tcp.mbits(), theirs


def median(figures):
    return round(statistics.median(figures), 1)


def measure(wire, nodes):
    figures = {}

    def note(name, runs):
        figures[name] = median(runs)
        say(f"{name}: {figures[name]} Mbit/s of {[round(run, 1) for run in runs]}")

    for shape, line in ((LOSSY, "lossy"), (LINE, "clean")):
        wire.shape(dict(shape))
        for control in ("cubic", "bbr"):
            note(f"{line}_tcp_{control}", [Tcp(wire, control).mbits(SECONDS) for _ in range(RUNS)])
        note(f"{line}_jincai", [alone(nodes) for _ in range(RUNS)])
    for control, other in (("cubic", "cubic"), ("cubic", "bbr"), ("cubic", "jincai"), ("bbr", "bbr"), ("bbr", "jincai")):
        runs = [beside(wire, nodes, control, other) for _ in range(RUNS)]
        note(f"shared_tcp_{control}_beside_{other}", [ours for ours, _ in runs])
        note(f"shared_{other}_beside_tcp_{control}", [theirs for _, theirs in runs])
    return figures


def main():
    directory = tempfile.mkdtemp()
    wire = nodes = None
    try:
        wire = Wire()
        nodes = Nodes(wire, directory)
        figures = measure(wire, nodes)
    finally:
        if nodes:
            nodes.stop()
        if wire:
            wire.close()
        shutil.rmtree(directory)
    if "--json" in sys.argv:
        print(json.dumps({**figures, "unit": "Mbit/s"}))
    else:
        for name, figure in figures.items():
            print(f"{name:32} {figure:8.1f} Mbit/s")


if sys.argv[1:2] == ["receive"]:
    tcp_receives(int(sys.argv[2]))
elif sys.argv[1:2] == ["send"]:
    tcp_sends(sys.argv[2], int(sys.argv[3]))
else:
    main()
