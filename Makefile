# `make help` lists what there is.

SHELL := bash
.SHELLFLAGS := -o pipefail -c
LAB := tests/lab/lab
LANES := tests/lanes
BIN := target/debug/ironstrap
INVENTORY := tests/lab/inventory.toml
# The inventory names the folder of this lab; lanes have labs of their own.
unexport IRONSTRAP_LAB

.PHONY: help own-lab cluster test test-all test-results bench bench-fleet clean-lab tools

help:
	@echo "make cluster       a real cluster on this machine: three machines of the lab, made one by ironstrap (root)"
	@echo "make test          the tests of every change, two lanes at a time: 45 minutes on two cores, 80 with cold caches (root)"
	@echo "make test-all      the rest: lanes that 'make test' has no time for; one of them: make test-all LANE=older (root)"
	@echo "make test-results  which lanes have passed for src, templates and tests as they are now"
	@echo "make bench         how fast, as ratios within one run, on the lab and at size (root)"
	@echo "make bench-fleet   of it a plan of up to a thousand machines that are SSH servers here"
	@echo "make clean-lab     stops the lab of make cluster and leaves nothing but the cache of built parts (root)"
	@echo
	@echo "Lanes of the tests, each a command of its own (make test-drift: all whose names begin so):"
	@$(LANES) list

tools:
	@tests/tools

own-lab:
	@[ -z "$(IRONSTRAP_LAB)" ] || { echo "IRONSTRAP_LAB is set, and this uses /var/lib/ironstrap-lab: unset it, or use $(LAB)"; exit 2; }

# With a test beside it, the program has the same dependencies as all tests, and each is compiled once (tests/lanes).
cluster: tools own-lab
	cargo build --locked --bin ironstrap --test it
	$(LAB) up
	$(LAB) exec $(BIN) apply --yes -i $(INVENTORY)
	@tests/lab/demo $(INVENTORY)

# Runs every lane whether it has passed before or not.
test: tools
	@$(LANES) run test

test-all: tools
	@$(LANES) run build $(or $(LANE),rest)

test-results:
	@$(LANES) results

# `make test-quick` needs neither root nor network.
test-quick:
	@$(LANES) run quick

# A lane of the lab, after what it is built of.
test-%: tools
	@$(LANES) run build $*

bench: tools bench-fleet
	cargo build --release --locked
	tests/bench/run target/release/ironstrap

bench-fleet:
	cargo bench --locked --bench fleet

clean-lab: own-lab
	$(LAB) down
	$(LAB) check-clean
	rm -rf tests/lab/demo.trust tests/lab/demo.kubeconfig tests/lab/.demo.lock
