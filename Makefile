# `make help` says what there is.

LAB := tests/lab/lab
BIN := target/release/ironstrap
INVENTORY := tests/lab/inventory.toml

.PHONY: help cluster test test-quick bench clean-lab tools

help:
	@echo "make cluster     a real cluster on this machine: three machines of the lab, made a cluster by ironstrap (root)"
	@echo "make test        everything: format, lints, tests, and the lab (root)"
	@echo "make test-quick  what needs neither root nor network"
	@echo "make bench       how fast, as ratios within one run (root)"
	@echo "make clean-lab   stops the lab and removes all of it but the cache of built parts (root)"

tools:
	@tests/tools

cluster: tools
	cargo build --release --locked
	$(LAB) up
	$(LAB) exec $(BIN) apply --yes -i $(INVENTORY)
	@tests/lab/demo $(INVENTORY)

test: tools test-quick
	$(LAB) build
	IRONSTRAP_LAB=/var/lib/ironstrap-lab-test cargo test --locked --features lab --test cluster

test-quick:
	cargo fmt --check
	cargo clippy --locked --all-targets --features lab -- -D warnings
	INSTA_UPDATE=no cargo test --locked

bench: tools
	cargo build --release --locked
	$(LAB) build
	tests/bench/run $(BIN)

clean-lab:
	$(LAB) down
	$(LAB) check-clean
