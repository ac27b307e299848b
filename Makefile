# Every target installs the system packages that it needs, once (Debian; as root or with sudo).
# `make up` and `make test` are what a newcomer needs; README.md tells the rest.

FILE ?=
SHELL := /bin/bash
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: up test verify bench docs packages test-packages bench-packages lint unit fuzz deny

up: packages            ## build the stack and run it: make up, or make up FILE=my.yaml
	cargo build --profile quick -p aqueduct -p demo -p l4-nlb -p l7-gateway -p pgpool
	exec target/quick/aqueduct up $(FILE)

test: test-packages lint unit   ## everything that a change must keep

verify: test-packages fuzz deny ## the long half: eight times the cases of every property, supply chain

bench: bench-packages   ## figures beside rivals, as ratios from one run
	cargo build --profile dist --bins
	cargo run --profile dist -p bench --bin compare

docs:                   ## generated files: topology/schema.json, docs/config.md, golden messages
	UPDATE_GOLDEN=1 cargo test -q -p topology

packages:
	@$(call need,postgresql redis-server)

test-packages: packages
	@$(call need,curl)

bench-packages: test-packages
	@$(call need,nginx-light wrk)

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet

unit:
	cargo build --workspace --all-targets
	cargo test --workspace

fuzz:
	PROPTEST_CASES=2000 cargo test --workspace --lib
	PROPTEST_CASES=20000 cargo test -p pgpool-wire

deny:
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny --log-level error check --hide-inclusion-graph bans licenses sources

# Installs those of the Debian packages that are missing and says so.
define need
missing=""; for package in $(1); do dpkg -s $$package >/dev/null 2>&1 || missing="$$missing $$package"; done; \
if [ -n "$$missing" ]; then echo "installing:$$missing"; \
  $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; fi
endef
