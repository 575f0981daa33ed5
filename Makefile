# `make help` says what there is.

LAB := tests/lab/lab
BIN := target/release/ironstrap
INVENTORY := tests/lab/inventory.toml

.PHONY: help cluster test test-quick test-cluster test-drift test-long bench clean-lab tools

help:
	@echo "make cluster       a real cluster on this machine: three machines of the lab, made one by ironstrap (root)"
	@echo "make test          everything: format, lints, tests, and the lab (root)"
	@echo "make test-quick    of it what needs neither root nor network"
	@echo "make test-cluster  of it the lab: a cluster made, looked at, killed half-way (root)"
	@echo "make test-drift    of it the lab: some ninety kinds of drift, each seen and mended (root)"
	@echo "make test-long     beside it: failures that take minutes to show, a machine with a kernel of its own under QEMU (root)"
	@echo "make bench         how fast, as ratios within one run (root)"
	@echo "make clean-lab     stops the lab of make cluster and leaves nothing but the cache of built parts (root)"

tools:
	@tests/tools

cluster: tools
	cargo build --release --locked
	$(LAB) up
	$(LAB) exec $(BIN) apply --yes -i $(INVENTORY)
	@tests/lab/demo $(INVENTORY)

test: tools test-quick test-cluster test-drift

test-quick:
	cargo fmt --check
	cargo clippy --locked --all-targets --features lab -- -D warnings
	INSTA_UPDATE=no cargo test --locked

# A lab of its own, so that a cluster of `make cluster` stays as it is, and the program as users build it: what tests are
# built with may have more to it. The lab is taken away again, whatever came out.
define in_lab
cargo build --release --locked
$(LAB) up
cargo test --locked --features lab --test cluster -- $(1); status=$$?; $(LAB) down; $(LAB) check-clean && exit $$status
endef

test-cluster test-drift test-long: export IRONSTRAP_BIN := $(CURDIR)/$(BIN)
test-cluster test-drift: export IRONSTRAP_LAB := /var/lib/ironstrap-lab-test
test-cluster: tools
	$(call in_lab,)

test-drift: tools
	$(call in_lab,--drift)

# Not part of `make test`: it takes its time.
test-long: export IRONSTRAP_LAB := /var/lib/ironstrap-lab-test
test-long: tools
	$(call in_lab,--slow 'a network plugin' 'another name')
	export IRONSTRAP_DRIFT_SUBSETS=50; $(call in_lab,--drift together)
	$(LAB) qemu up
	cargo test --locked --features lab --test kernel; status=$$?; $(LAB) down; $(LAB) check-clean && exit $$status

bench: tools
	cargo build --release --locked
	tests/bench/run $(BIN)

clean-lab:
	$(LAB) down
	$(LAB) check-clean
