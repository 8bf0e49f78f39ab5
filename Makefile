# `make help` lists what this can do. Everything is for root on a Debian-like machine; nothing here needs more than apt,
# PyPI and, for `make test` and `make conformance`, the Go module proxy.

PREFIX      ?= /usr/local
DESTDIR     ?=
# Ubuntu 24.04 packages no kernel source that is new enough.
KATA_KERNEL ?= $(if $(shell grep -x ID=ubuntu /etc/os-release),debian,built)
SHARE       := $(DESTDIR)$(PREFIX)/share/kata-containers
PODMAN      := $(DESTDIR)/etc/containers/containers.conf.d/50-kata-runtime.conf
MANUALS     := $(DESTDIR)$(PREFIX)/share/man/man5
DEFAULTS    := $(DESTDIR)$(PREFIX)/share/defaults/kata-containers
PYTHON      := /usr/bin/python3
VENV        := .venv
KATA_IMAGE  := $(PYTHON) -IS -c 'import sys; sys.path.insert(0, "src"); from kata.image.main import main; sys.exit(main())'
PYTEST      := $(VENV)/bin/pytest
# How often a test in a VM may be tried again; each such try is counted and named at the end.
RERUNS      ?= 0
# Which runs `make test-lab` makes: all, or those named, as in LAB="conformance life-qemu".
LAB         ?=
RUNTIMES    ?= $(PREFIX)/bin/kata-runtime runc
PEERS       := containerd cri-tools nerdctl docker docker-cli docker-debian

.DEFAULT_GOAL := help
.PHONY: help demo install install-code install-guest uninstall peers test test-unit test-guest soak check lint conformance bench clean packages lab test-lab

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "variables: PREFIX=$(PREFIX) DESTDIR=$(DESTDIR) KATA_KERNEL=$(KATA_KERNEL) (built or debian)"

demo: ## run a container in a VM on a machine that has nothing yet, and show what proves it
	tools/install-host-packages run image demo
	@if [ -e $(SHARE)/vmlinux.container ]; then $(MAKE) --no-print-directory install; \
	else $(MAKE) --no-print-directory install KATA_KERNEL=debian; fi
	tools/demo $(PREFIX)/bin/kata-runtime

install: install-code install-guest ## install the runtime, the guest's kernel and image, and the default configuration

install-code:
	@tools/install-code "$(PREFIX)" "$(DESTDIR)"
	@install -d $(DEFAULTS) && install -m 644 -C packaging/configuration*.toml $(DEFAULTS)
	@sed -i 's|/usr/local/|$(PREFIX)/|' $(DEFAULTS)/configuration-acrn.toml
	@install -D -m 644 -C packaging/kata-configuration.toml.5 $(MANUALS)/kata-configuration.toml.5
	@mkdir -p $(dir $(PODMAN))
	@sed 's|@PREFIX@|$(PREFIX)|' packaging/containers.conf > $(PODMAN)

install-guest:
ifeq ($(KATA_KERNEL),debian)
	@$(KATA_IMAGE) kernel --debian --output $(SHARE)
else
	@$(KATA_IMAGE) kernel --output $(SHARE)
	@$(KATA_IMAGE) rootfs --output $(SHARE)
endif

uninstall: ## remove what `make install` put there, templates and the pool; /etc/kata-containers and the build cache stay
ifeq ($(DESTDIR),)
	-[ ! -x $(PREFIX)/bin/kata-runtime ] || $(PREFIX)/bin/kata-runtime factory destroy
	rm -f /run/kata/accelerator.json /run/kata/version-*.json
	@for place in /run/vc/vm /run/vc /run/kata/bundles /run/kata/containers /run/kata/sandboxes /run/kata \
	    /run/kata-containers/shared/sandboxes /run/kata-containers/shared /run/kata-containers \
	    /var/lib/kata-containers/copies /var/lib/kata-containers; do \
	    [ ! -d $$place ] || rmdir --ignore-fail-on-non-empty $$place || :; \
	done
endif
	rm -rf $(DESTDIR)$(PREFIX)/lib/kata $(SHARE) $(DEFAULTS)
	rm -f $(PODMAN) $(MANUALS)/kata-configuration.toml.5 $(addprefix $(DESTDIR)$(PREFIX)/bin/,$(shell tools/install-code --commands))

$(VENV)/complete: pyproject.toml tools/make-venv
	tools/make-venv $(VENV) check test
	@touch $@

packages: ## install the Debian packages that everything below needs
	tools/install-host-packages run image kernel demo test

peers: ## build the engines of others that `make test` drives; what wants one that cannot be built is skipped
	@for peer in $(PEERS); do tools/build-peer $$peer || echo "NO $$peer: what wants it is skipped" >&2; done

test: packages $(VENV)/complete install peers test-unit test-guest ## install everything and run all tests, those in VMs too

test-unit: $(VENV)/complete
	$(PYTEST) tests/unit

# Of the CRI only what is quick; `make conformance` runs tests/cri and tests/crio whole.
test-guest: $(VENV)/complete
	$(PYTEST) --reruns $(RERUNS) -raR $(wildcard tests/guest tests/hypervisor tests/faults tests/podman tests/containerd tests/cri/test_kubernetes.py tests/nerdctl tests/docker tests/load)

soak: packages $(VENV)/complete install ## load one pod with 500 containers and 1000 execs, start 20 pods; takes most of an hour
	KATA_SOAK=500,1000,20 $(PYTEST) tests/load

check: lint test-unit ## lint, types, layers, unit tests: no VM

lab: packages $(VENV)/complete ## build the machine of `make test-lab`, with KVM, vhost and an IOMMU, emulated by QEMU
	$(VENV)/bin/python tests/lab/main.py build

test-lab: packages $(VENV)/complete install-guest ## run the tests of all hypervisors in that machine: to build/lab.json
	@tools/build-peer cri-tools || echo "NO crictl: what wants it is skipped" >&2
	$(VENV)/bin/python tests/lab/main.py test $(LAB)

lint: $(VENV)/complete
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	PYTHONPATH=src $(VENV)/bin/lint-imports

conformance: packages $(VENV)/complete install ## run every suite: to build/conformance.json and docs/conformance.md
	tools/install-host-packages conformance
	@for peer in $(PEERS) containerd@2.2.9 cri-o; do \
	    tools/build-peer $$peer || echo "NO $$peer: what wants it is skipped" >&2; \
	done
	@failed=; \
	$(VENV)/bin/python tests/conformance/runtime_tools.py --jobs 2 $(RUNTIMES) || failed="$$failed runtime-tools"; \
	$(VENV)/bin/python tests/conformance/filesystem.py $(RUNTIMES) || failed="$$failed posixfs"; \
	$(VENV)/bin/python tests/conformance/engines.py || failed="$$failed engines"; \
	$(VENV)/bin/python tests/conformance/critest.py kata runc || [ $$? = 77 ] || failed="$$failed critest"; \
	cat build/conformance.json; \
	[ -z "$$failed" ] || { echo "FAILED:$$failed" >&2; exit 1; }

bench: ## measure start-up, memory and throughput
	@test -d bench || { echo "there is no bench/ yet" >&2; exit 1; }
	$(PYTHON) bench/run.py

clean: ## remove what was built in the tree; the cache in /var/cache/kata-containers stays
	rm -rf build dist $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
