#!/usr/bin/env python3
"""A wire between two network namespaces that loses, delays, duplicates, reorders, throttles and cuts.

    shaper.py NAMESPACE-A NAMESPACE-B

Both ends are TUN devices: 10.99.0.1 in A, 10.99.0.2 in B. Says "ready" on standard output, then takes one JSON object a
line on standard input, each a change to one direction or both:

    {"way": "ab" | "ba" | "both", "loss": 0..1, "delay": seconds, "jitter": seconds, "duplicate": 0..1,
     "reorder": 0..1, "rate": bits a second or 0, "buffer": seconds, "longest": bytes, "blocked": true | false}

and answers "done". A packet that is longer than "longest" vanishes, as behind a hop with a smaller MTU that tells nobody;
"reorder" is the share of packets that later ones overtake. A throttled direction keeps "buffer" seconds' worth of packets (1, a
modem's) and drops what comes on top. Ends with its input. Needs root, and no queueing discipline of
the kernel. The sequence of decisions comes from one fixed seed.
"""

import fcntl
import heapq
import json
import os
import random
import selectors
import struct
import subprocess
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
PACKET = 65536

PLAIN = {"loss": 0.0, "delay": 0.0, "jitter": 0.0, "duplicate": 0.0, "reorder": 0.0, "rate": 0, "buffer": 1.0, "longest": PACKET, "blocked": False}


def end(name, namespace, address):
    """A TUN device in a namespace; returns its file."""
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    # Other wires begin in the same namespace as this one: until it has moved, its name must be its own.
    first = f"{name}{os.getpid()}"
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH", first.encode(), IFF_TUN | IFF_NO_PI))
    for command in (
        ["ip", "link", "set", first, "netns", namespace],
        ["ip", "-n", namespace, "link", "set", first, "name", name],
        ["ip", "-n", namespace, "address", "add", f"{address}/24", "dev", name],
        ["ip", "-n", namespace, "link", "set", name, "up"],
        ["ip", "-n", namespace, "link", "set", "lo", "up"],
    ):
        subprocess.run(command, check=True)
    return tun


class Way:
    """One direction."""

    def __init__(self, to):
        self.to = to
        self.shape = dict(PLAIN)
        self.free = 0.0

    def leaves(self, length, now):
        """When a packet has left a throttled sender; None if the buffer is full."""
        if not self.shape["rate"]:
            return now
        start = max(self.free, now)
        if start - now > self.shape["buffer"]:
            return None
        self.free = start + length * 8 / self.shape["rate"]
        return self.free

    def arrivals(self, packet, now, dice):
        """When copies of a packet arrive."""
        shape = self.shape
        if shape["blocked"] or len(packet) > shape["longest"] or dice.random() < shape["loss"]:
            return
        for _ in range(2 if dice.random() < shape["duplicate"] else 1):
            left = self.leaves(len(packet), now)
            if left is None:
                continue
            late = 0.05 + shape["delay"] / 2 if dice.random() < shape["reorder"] else 0.0
            yield left + shape["delay"] + late + dice.random() * shape["jitter"]


def main():
    first, second = sys.argv[1:3]
    a, b = end("jca", first, "10.99.0.1"), end("jcb", second, "10.99.0.2")
    ways = {"ab": Way(b), "ba": Way(a)}
    dice = random.Random(1)
    selector = selectors.DefaultSelector()
    selector.register(a, selectors.EVENT_READ, ways["ab"])
    selector.register(b, selectors.EVENT_READ, ways["ba"])
    selector.register(sys.stdin.fileno(), selectors.EVENT_READ, None)
    pending, order = [], 0
    print("ready", flush=True)
    while True:
        wait = max(0.0, pending[0][0] - time.monotonic()) if pending else None
        for key, _ in selector.select(wait):
            if key.data is None:
                line = sys.stdin.readline()
                if not line:
                    return
                change = json.loads(line)
                way = change.pop("way")
                for name in ("ab", "ba") if way == "both" else (way,):
                    ways[name].shape = {**PLAIN, **change}
                print("done", flush=True)
                continue
            try:
                packet = os.read(key.fd, PACKET)
            except BlockingIOError:
                continue
            for at in key.data.arrivals(packet, time.monotonic(), dice):
                order += 1
                heapq.heappush(pending, (at, order, key.data.to, packet))
        now = time.monotonic()
        while pending and pending[0][0] <= now:
            _, _, to, packet = heapq.heappop(pending)
            try:
                os.write(to, packet)
            except OSError:
                pass  # The other end is down, or its queue is full: the packet is lost.


main()
