# `make help` says what there is.

SHELL := bash
.SHELLFLAGS := -o pipefail -c
LAB := tests/lab/lab
BIN := target/release/ironstrap
INVENTORY := tests/lab/inventory.toml

.PHONY: help cluster test test-quick test-parts test-cluster test-drift test-planes test-kernel bench bench-fleet clean-lab tools

help:
	@echo "make cluster       a real cluster on this machine: three machines of the lab, made one by ironstrap (root)"
	@echo "make test          everything: format, lints, tests, and the lab (root)"
	@echo "make test-quick    of it what needs neither root nor network"
	@echo "make test-cluster  of it the lab: a cluster made, looked at, killed half-way (root)"
	@echo "make test-drift    of it the lab: a hundred kinds of drift, each seen and mended, and many at once (root)"
	@echo "make test-planes   of it several control planes: joined, changed, removed, replaced (root)"
	@echo "make test-kernel   of it what belongs to a kernel, on a machine under QEMU that has its own (root)"
	@echo "make bench         how fast, as ratios within one run, on the lab and at size (root)"
	@echo "make bench-fleet   of it a plan of up to a thousand machines that are SSH servers here"
	@echo "make clean-lab     stops the lab of make cluster and leaves nothing but the cache of built parts (root)"

tools:
	@tests/tools

cluster: tools
	cargo build --release --locked
	$(LAB) up
	$(LAB) exec $(BIN) apply --yes -i $(INVENTORY)
	@tests/lab/demo $(INVENTORY)

# The lab's tests are two at a time: they wait more than they work. Several control planes and another lab would need
# more inotify instances than a host gives by default; the virtual machine has its own.
test: tools test-quick
	$(MAKE) --no-print-directory -j2 test-drift test-cluster
	$(MAKE) --no-print-directory -j2 test-planes test-kernel

test-quick:
	cargo fmt --check
	cargo clippy --locked --all-targets --features lab -- -D warnings
	INSTA_UPDATE=no cargo test --locked

# The program as users build it: what tests are built with may have more to it.
test-parts: tools
	cargo build --release --locked
	cargo test --locked --features lab --test cluster --test kernel --no-run
	$(LAB) build

# A lab of its own for each, so that a cluster of `make cluster` stays as it is. It is taken away again, whatever came out.
define in_lab
@{ $(LAB) $(1) && cargo test --locked --features lab --test $(2); status=$$?; $(LAB) down; $(LAB) check-clean && exit $$status; } 2>&1 | sed -u 's/^/$@: /'
endef

test-cluster test-drift test-planes test-kernel: export IRONSTRAP_BIN := $(CURDIR)/$(BIN)

test-cluster: export IRONSTRAP_LAB := /var/lib/ironstrap-lab-test
test-cluster: test-parts
	$(call in_lab,up,cluster)

test-drift: export IRONSTRAP_LAB := /var/lib/ironstrap-lab-drift
# The same subsets each time, so that what fails fails again; with another seed, others.
test-drift: export IRONSTRAP_DRIFT_SUBSETS ?= 50
test-drift: export IRONSTRAP_DRIFT_SEED ?= 1795309784
test-drift: test-parts
	$(call in_lab,up,cluster -- --drift)

test-planes: export IRONSTRAP_LAB := /var/lib/ironstrap-lab-planes
test-planes: test-parts
	$(call in_lab,up,cluster -- --planes)

test-kernel: export IRONSTRAP_LAB := /var/lib/ironstrap-lab-kernel
test-kernel: test-parts
	$(call in_lab,qemu up,kernel)

bench: tools bench-fleet
	cargo build --release --locked
	tests/bench/run $(BIN)

bench-fleet:
	cargo bench --locked --bench fleet

clean-lab:
	$(LAB) down
	$(LAB) check-clean
