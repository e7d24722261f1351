# Everything a newcomer needs. Each line calls cargo or a script; mold links where it is on the path.

SHELL := /bin/bash
TARGET := $(or $(CARGO_TARGET_DIR),target)
CARGO := $(if $(shell command -v mold),mold -run )cargo
JINCAI := $(TARGET)/release/jincai
PEERS := $(wildcard tests/peers/*.sh)

.PHONY: demo test lint soak bench peers

# Four nodes on this machine, real data, a kill on the way; every step is checked.
demo:
	tests/install.sh
	$(CARGO) build --release --locked --workspace --bin jincai
	$(JINCAI) demo

# The whole check: what is green here is green everywhere.
test:
	tests/install.sh
	cargo fmt --all --check
	python3 tests/licences.py
	cargo metadata --locked --format-version 1 --manifest-path tests/fuzz/search/Cargo.toml >/dev/null
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings
	$(CARGO) test --release --locked --workspace
	$(CARGO) test --release --locked -p jincai-simulation --features mutations --test mutations

# As far as it goes without running anything, with the full check of dependencies (builds cargo-deny once if it is missing).
lint:
	tests/install.sh
	cargo fmt --all --check
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings
	command -v cargo-deny >/dev/null || $(CARGO) install cargo-deny --locked
	cargo deny check bans licenses sources

# By hand, before a release (as root, some hours): 10,000 worlds, the country for a month, 200 power cuts, properties over many more
# cases, 10 million queued messages within 256 MB, every state of a journal after a power cut, and a minute's search against each decoder.
soak:
	tests/install.sh
	$(CARGO) build --release --locked --workspace --bin jincai
	$(JINCAI) sim --seeds 1..10000
	$(JINCAI) sim --nodes 3220 --days 31 --seeds 1..1
	JINCAI_POWER_CUTS=200 PROPTEST_CASES=2000 $(CARGO) test --release --locked --workspace
	$(CARGO) test --release --locked -p jincai-journal -- --ignored
	tests/limited.sh 256 $(JINCAI) bench queue --messages 10000000 --json
	tests/fuzz/search.sh 60

bench:
	tests/install.sh
	$(CARGO) build --release --locked --workspace --bin jincai
	$(JINCAI) bench relay --json

# Comparisons with other programs. A missing one fails instead of being skipped.
peers:
	@test -n "$(PEERS)" || { echo "there are no peer comparisons yet: tests/peers holds no script" >&2; exit 1; }
	@set -e; for script in $(PEERS); do echo "$$script"; "$$script"; done
