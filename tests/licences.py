"""Holds every dependency's licence, source and name against deny.toml, in a second and with the standard library alone.

`cargo deny` checks more and takes minutes to build; it runs in `make lint`. This reads the same file, so the two cannot drift
apart: a licence that is not in `allow`, a package that is not from crates.io, or one that `bans` names fails the run.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CRATES_IO = "registry+https://github.com/rust-lang/crates.io-index"


def allowed(expression, allow):
    """Whether an SPDX expression can be met with the licences allowed; «/» is an old way of writing OR."""
    words = re.findall(r"\(|\)|[^\s()/]+|/", expression)
    place = 0

    def one():
        nonlocal place
        word = words[place]
        place += 1
        if word == "(":
            value = either()
            place += 1
            return value
        if place + 1 < len(words) and words[place] == "WITH":
            word = f"{word} WITH {words[place + 1]}"
            place += 2
        return word in allow

    def both():
        nonlocal place
        value = one()
        while place < len(words) and words[place] == "AND":
            place += 1
            value = one() and value
        return value

    def either():
        nonlocal place
        value = both()
        while place < len(words) and words[place] in ("OR", "/"):
            place += 1
            value = both() or value
        return value

    return either()


def host():
    lines = subprocess.run(["rustc", "-vV"], capture_output=True, text=True, check=True, cwd=ROOT).stdout.splitlines()
    return next(line.split()[1] for line in lines if line.startswith("host:"))


def packages():
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", host()]
    metadata = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT).stdout)
    used = {node["id"] for node in metadata["resolve"]["nodes"]}
    return [package for package in metadata["packages"] if package["id"] in used]


def main():
    rules = tomllib.loads((ROOT / "deny.toml").read_text())
    allow = set(rules["licenses"]["allow"])
    banned = {entry["crate"]: entry["reason"] for entry in rules["bans"]["deny"]}
    findings = []
    everything = packages()
    for package in everything:
        name = f"{package['name']} {package['version']}"
        if not allowed(package["license"] or "none", allow):
            findings.append(f"{name}: licence {package['license']} is not allowed by deny.toml")
        if package["source"] not in (None, CRATES_IO):
            findings.append(f"{name}: it comes from {package['source']}")
        if package["name"] in banned:
            findings.append(f"{name}: banned: {banned[package['name']]}")
    for finding in findings:
        print(finding, file=sys.stderr)
    print(f"licences: {len(everything)} packages, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
