# Every step of CI is one target here.
#   make run     build into .venv and run the demo            make test    build, install what the tests need, run all tests
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
PYTEST_ARGS ?=
DEBUG_TREE := build/debug-tree
SANITIZE_TREE := build/sanitize-tree
CORE_TESTS := tests/unit tests/property tests/conformance
# The checked build is worth its time where compiled code meets sockets, threads and kills; whole programs, and what has no
# compiled code of its own, run once, in the normal build.
DEBUG_TESTS := $(CORE_TESTS) $(wildcard tests/integration/test_zone_*.py tests/integration/test_proxy_*.py) \
  tests/integration/test_memcache_client.py tests/integration/test_affinity_store.py tests/integration/test_shared_cache.py

.PHONY: run test test-conformance lint types test-debug test-sanitize test-install bench instructions build clean

run: build
	$(BIN)/fastroute demo $(ARGS)

test: system-test build $(VENV)/.test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# Every dialect beside the product itself: those from the system's packages and those from the package index. None may be skipped.
test-conformance: system-conformance build $(VENV)/.conformance
	$(BIN)/python -m pytest $(PYTEST_ARGS) --no-skips tests/conformance

# -- environment and build -----------------------------------------------------------------------------------------------
.PHONY: system-build system-test system-conformance
system-build:
	@PYTHON=$(PYTHON) .ci/system build
system-test:
	@PYTHON=$(PYTHON) .ci/system test

system-conformance:
	@PYTHON=$(PYTHON) .ci/system conformance

$(VENV)/.created: | system-build
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip "setuptools>=77" "cython>=3.1" wheel
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml setup.py
	@echo "building fastroute into $(VENV) (some minutes on two cores)"
	@$(BIN)/python -m pip install -q --no-build-isolation -e . > $(VENV)/install.log 2>&1 || { cat $(VENV)/install.log; exit 1; }
	@touch $@

$(VENV)/.test: $(VENV)/.installed
	$(BIN)/python .ci/requirements test > $@.txt && $(BIN)/python -m pip install -q -r $@.txt
	@touch $@

$(VENV)/.conformance: $(VENV)/.test
	$(BIN)/python .ci/requirements conformance > $@.txt && $(BIN)/python -m pip install -q -r $@.txt
	@touch $@

$(VENV)/.lint: $(VENV)/.test
	$(BIN)/python .ci/requirements lint > $@.txt && $(BIN)/python -m pip install -q -r $@.txt
	@touch $@

$(VENV)/.bench: $(VENV)/.test
	$(BIN)/python .ci/requirements bench > $@.txt && $(BIN)/python -m pip install -q -r $@.txt
	@touch $@

build: $(VENV)/.installed
	$(BIN)/python setup.py -q build_ext --inplace

# -- checks ---------------------------------------------------------------------------------------------------------------
lint: build $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: build $(VENV)/.lint
	$(BIN)/python -m mypy
	$(BIN)/python -m mypy.stubtest fastroute._core --mypy-config-file pyproject.toml \
	  --allowlist tests/build/stubtest_allowlist.txt --ignore-unused-allowlist

# The checked build (bounds, assertions) in a tree of its own, so that objects never mix.
test-debug: system-test build $(VENV)/.test
	rm -rf $(DEBUG_TREE)/tests && mkdir -p $(DEBUG_TREE)
	git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -pt $(DEBUG_TREE)
	cd $(DEBUG_TREE) && FASTROUTE_DEBUG=1 $(abspath $(BIN))/python setup.py -q build_ext --inplace
	cd $(DEBUG_TREE) && FASTROUTE_SHARED=$${FASTROUTE_SHARED:-$(abspath ../shared)} PYTHONPATH=. \
	  $(abspath $(BIN))/python -m pytest -p no:cacheprovider $(PYTEST_ARGS) $(DEBUG_TESTS)

# AddressSanitizer and UndefinedBehaviorSanitizer over the tests of the compiled core. Python's own allocator would hide
# overreads behind its arenas, hence PYTHONMALLOC=malloc.
test-sanitize: system-test build $(VENV)/.test
	rm -rf $(SANITIZE_TREE)/tests && mkdir -p $(SANITIZE_TREE)
	git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -pt $(SANITIZE_TREE)
	cd $(SANITIZE_TREE) && FASTROUTE_SANITIZE=1 $(abspath $(BIN))/python setup.py -q build_ext --inplace
	cd $(SANITIZE_TREE) && FASTROUTE_SHARED=$${FASTROUTE_SHARED:-$(abspath ../shared)} PYTHONPATH=. PYTHONMALLOC=malloc \
	  LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=1:strict_string_checks=1 \
	  UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
	  $(abspath $(BIN))/python -m pytest -p no:cacheprovider -q $(PYTEST_ARGS) $(CORE_TESTS)

# The fuzzers, FUZZ_SECONDS for each target; a recorded run: make fuzz FUZZ_ARGS="--runs 10000000".
FUZZ_SECONDS ?= 60
fuzz: build $(VENV)/.test
	$(BIN)/python tests/fuzz/run.py --seconds $(FUZZ_SECONDS) $(FUZZ_ARGS)

# What users notice when servers, balancers or memcached fail: the recorded table of docs/design/faults.md (some 15 minutes).
faults: system-test build $(VENV)/.test
	$(BIN)/python -m benchmarks.faults $(ARGS)

# sdist -> wheel -> install into a fresh environment, once for every interpreter from 3.11 up that is here.
test-install: system-build $(VENV)/.test
	$(BIN)/python tests/build/install_everywhere.py

# The agreement in virtual time, many seeds; SEEDS and FIRST choose which (docs/design/agreement-simulation.md).
SEEDS ?= 10000
FIRST ?= 1
.PHONY: simulate
simulate: build $(VENV)/.test
	$(BIN)/python -m tests.simulation.agreement --first $(FIRST) --seeds $(SEEDS)

# Clients, servers and operators that misbehave, for MINUTES; nothing may be lost, nothing may leak (docs/performance.md).
MINUTES ?= 60
.PHONY: soak reloads
soak: build $(VENV)/.test
	$(BIN)/python -m tests.soak --minutes $(MINUTES) $(ARGS)

# RELOADS configurations, one after the other, under load: no request may fail.
RELOADS ?= 100
reloads: build $(VENV)/.test
	$(BIN)/python -m tests.soak.reloads --count $(RELOADS) $(ARGS)

bench: build $(VENV)/.bench
	$(BIN)/python -m benchmarks.run $(ARGS)

# The public cache-tests suite, installed from npm when it is not there (needs node): make cache-tests ARGS="--product nginx".
.PHONY: cache-tests
cache-tests: system-test build $(VENV)/.test
	$(BIN)/python -m benchmarks.cache_tests $(ARGS)

# Instructions of a selection, compared with those recorded: what a noisy machine cannot hide.
instructions: system-conformance build
	$(BIN)/python -m benchmarks.instructions --check $(ARGS)

clean:
	rm -rf build dist $(VENV) *.egg-info
	find fastroute -name '*.so' -delete
