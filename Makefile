# What a person does with this checkout. `make help` lists it.

CARGO ?= cargo
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))

# Every target builds with the same selection (--workspace), so that common
# dependencies have one set of features and are compiled once; a tidy test
# holds building and testing together.

# RocksDB's C++ goes through the compiler cache: a clean checkout on the same
# machine, and the other build profile, reuse it.
ifneq ($(shell command -v ccache),)
export CC ?= ccache cc
export CXX ?= ccache c++
ifeq ($(origin CC),default)
export CC := ccache cc
endif
ifeq ($(origin CXX),default)
export CXX := ccache c++
endif
endif

.PHONY: help build release test demo run bench faults dashboards soak lint format packages test-packages
.DEFAULT_GOAL := help

help: ## List these commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

packages:
	@scripts/system-packages.sh build

test-packages:
	@scripts/system-packages.sh test

build: packages ## Build the server (target/debug/causeway)
	@$(MAKE) --no-print-directory .build

release: packages ## Build the server optimised (target/release/causeway)
	@$(MAKE) --no-print-directory .release

# After `packages`, in a make of its own, so that a ccache just installed is seen.
.PHONY: .build .release .test .demo-build .bench
# Through the environment, so that no character of a path means anything to make or a shell.
export FOLDER
.build:
	$(CARGO) build --locked --workspace --bins
.release:
	$(CARGO) build --locked --release --workspace --bins

test: test-packages ## Pass every test
	@$(MAKE) --no-print-directory .test
.test:
	scripts/interop-venv.sh $(TARGET)/interop-venv
	scripts/interop-js.sh $(TARGET)/interop-js $(TARGET)/interop-venv
	scripts/deploy-tools.sh $(TARGET)/deploy-tools
	$(CARGO) build --locked --manifest-path tests/rust-sdk/Cargo.toml --target-dir $(TARGET)/rust-sdk
	$(CARGO) build --locked --workspace --bins
	@rm -f $(TARGET)/skipped-tests
	TESTED_SERVER=$(TARGET)/debug/causeway SKIPPED_TESTS=$(TARGET)/skipped-tests \
		$(CARGO) test --locked --workspace --no-fail-fast; \
		passed=$$?; cat $(TARGET)/skipped-tests 2>/dev/null; exit $$passed

demo: packages ## Show two servers sharing a space. ONCE=1: don't stay; FOLDER=…: share that folder; VERBOSE=1
	@$(MAKE) --no-print-directory .demo-build
# Not in the make that builds: one that is interrupted inside another says so, though
# all ended well.
	@TESTED_SERVER=$(TARGET)/debug/causeway $(TARGET)/debug/demo $(if $(ONCE),--once) $(if $(VERBOSE),--verbose) $(if $(FOLDER),--folder "$$FOLDER")
.demo-build:
	@test -x $(TARGET)/debug/demo || echo "Building; the first time this compiles RocksDB: about 20 minutes on two cores."
	@$(CARGO) build --locked --workspace --bins

run: packages ## Run one server for real use on http://127.0.0.1:8008 (data/). SERVER_NAME=…
	@$(MAKE) --no-print-directory .release
	@scripts/run.sh $(TARGET)/release/causeway $(SERVER_NAME)

bench: test-packages ## Measure; a table and target/bench.json, wherever else things are built; Synapse comes from PyPI
	@$(MAKE) --no-print-directory .bench
.bench:
	$(CARGO) build --locked --release --workspace --bins
	TESTED_SERVER=$(TARGET)/release/causeway $(TARGET)/release/bench --out target/bench.json $(BENCH)

faults: test-packages ## Cut, slow, kill and restart servers and a Synapse for MINUTES=10, SEED=1; table and picture in target/faults
	@$(MAKE) --no-print-directory .faults
.PHONY: .faults
.faults:
	$(CARGO) build --locked --release --workspace --bins
	TESTED_SERVER=$(TARGET)/release/causeway $(TARGET)/release/faults --minutes $(or $(MINUTES),10) --seed $(or $(SEED),1) --out target/faults $(FAULTS)

dashboards: test-packages ## Draw what Grafana would show of two servers under load for MINUTES=4; pictures in target/dashboards
	@$(MAKE) --no-print-directory .dashboards
.PHONY: .dashboards
.dashboards:
	scripts/deploy-tools.sh $(TARGET)/deploy-tools
	$(CARGO) build --locked --release --workspace --bins
	TESTED_SERVER=$(TARGET)/release/causeway $(TARGET)/release/dashboards --minutes $(or $(MINUTES),4) --out target/dashboards

soak: $(if $(ROOMS)$(ROOM),test-packages,packages) ## Simulate replication: SCHEDULES=100000, SEED=n to replay one, TABLE=1000 for the rules; ROOMS=100000 forked rooms beside Synapse, ROOM=n one
	@$(MAKE) --no-print-directory .soak
.PHONY: .soak
SOAK = $(if $(SEED),--replay $(SEED),$(if $(TABLE),--table $(TABLE),--schedules $(or $(SCHEDULES),100000)))
.soak:
	$(CARGO) build --locked --release --workspace --bin soak
	$(TARGET)/release/soak $(if $(ROOM),--room $(ROOM),$(if $(ROOMS),--rooms $(ROOMS) --from $(or $(FROM),0),$(SOAK)))

lint: packages ## Formatting and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

format: ## Format everything
	$(CARGO) fmt --all
