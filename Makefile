# The commands of this project. Each sets up what it needs and rebuilds only what changed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := $(shell find csrc -type f) setup.py pyproject.toml
NATIVE := $(shell find csrc cuda_bench tests benchmarks examples -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
FIND_NVCC := cuda_bench/src/cuda_bench/find_nvcc.py

# PTX runs on every later device, and the tests compile for each architecture. What users install
# (pip install .) is built for all of them.
export TORCH_CUDA_ARCH_LIST ?= 7.5+PTX
export MAKEMORE_EXT_CUDA := $(or $(MAKEMORE_EXT_CUDA),$(if $(shell $(PYTHON) $(FIND_NVCC)),1,0))

# A process for each core, which takes tests from others when it has none left.
PARALLEL := -n auto --maxprocesses 8 --dist worksteal

# What is tested of a build by another compiler, or for a sanitizer. Python's autograd is the same,
# and so are the formulas in Python and what torch's transforms make of the operators.
OPERATIONS := tests/ops tests/fused_mlp --ignore=tests/ops/test_python_autograd.py \
	--ignore-glob='*/test_transforms.py' --ignore-glob='*/test_formulas.py' \
	--ignore-glob='*/test_batching.py'

# Recipes: the committed files in a folder of their own; a library of the compiler's.
copy-tree = @mkdir -p $(COPY) && git ls-files -z | xargs -0 cp --parents --preserve=timestamps --target-directory=$(COPY)
library = $$(g++ -print-file-name=lib$(1).so)

CUDA_WHEELS := nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 \
	nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85

# Calls of each of three operations.
FUZZED := 67000

.PHONY: help build train test fuzz sanitize compilers with-compiler cuda-check lint format bench benchmark docs clean

help:
	@echo "make train      set up, train the names network on the fused kernels, compare the backends"
	@echo "make test       set up, check the style and the types, run every test"
	@echo "make fuzz       200,000 random calls against torch's in float64"
	@echo "make sanitize   the operations' tests under AddressSanitizer with UBSan, and ThreadSanitizer"
	@echo "make compilers  build with g++-11 and with clang++-14, run the operations' tests on both"
	@echo "make cuda-check the tests of the CUDA kernels alone, which need no GPU; brings nvcc if needed"
	@echo "make build      set up $(VENV) with the package built and installed editable"
	@echo "make lint       check the style and the types"
	@echo "make format     rewrite the sources in the project's style"
	@echo "make bench      every operation and the training step beside torch's, in two minutes"
	@echo "make benchmark  measure, write benchmarks/results and the pages that show them"
	@echo "make docs       build the site, build/site/index.html"
	@echo "make clean      remove the environment and everything built"

$(BIN)/.torch:
	@echo "==> creating $(VENV) with torch and the build tools (a few minutes the first time)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch==2.13.0 numpy ninja pybind11 setuptools wheel
	@touch $@

$(BIN)/.built: $(BIN)/.torch $(SOURCES)
	@echo "==> building makemore_ext (two to three minutes on two cores, seconds after a change)"
	@touch $(BIN)/.building  # what is saved from now on is for the next build
	$(BIN)/python setup.py --quiet build_ext --inplace
	@test $(BIN)/.installed -nt pyproject.toml || \
		$(BIN)/pip install --quiet --no-build-isolation --editable '.[dev]'
	@touch $(BIN)/.installed
	@mv $(BIN)/.building $@

build: $(BIN)/.built

train: build
	@echo "==> training the names network, H = 200, 10,000 steps, each of them one native call"
	$(BIN)/makemore-ext train
	@echo "==> comparing the training backends"
	$(BIN)/makemore-ext compare

lint: build
	@echo "==> checking style and types"
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(NATIVE)

test: lint
	@echo "==> running the tests"
	$(BIN)/pytest $(PARALLEL)

fuzz: build
	@echo "==> drawing $(FUZZED) calls of each operation"
	$(BIN)/pytest $(PARALLEL) tests/fuzz --examples $(FUZZED)

# A copy of the tree is built with a sanitizer, whose runtime is in the process before Python is.
# What Python never frees is not looked at, nor what torch does by itself. A report ends the process
# and goes to its stderr, which pytest is to leave alone.
sanitize: sanitize-address sanitize-thread

sanitize-address: SANITIZER = -fsanitize=address,undefined
sanitize-address: RUNTIME = LD_PRELOAD="$(call library,asan) $(call library,stdc++)" \
	ASAN_OPTIONS="detect_leaks=0 allocator_may_return_null=1"
sanitize-thread: SANITIZER = -fsanitize=thread
sanitize-thread: RUNTIME = LD_PRELOAD=$(call library,tsan) OMP_NUM_THREADS=4 \
	TSAN_OPTIONS="halt_on_error=1 report_mutex_bugs=0 allocator_may_return_null=1 suppressions=$(abspath $(COPY))/tests/sanitize/thread.txt"
sanitize-%: COPY = build/sanitizers/$*
sanitize-%: FLAGS = $(SANITIZER) -fno-sanitize-recover=all
sanitize-%: build
	@echo "==> building with $(SANITIZER)"
	$(copy-tree)
	cd $(COPY) && CXX=g++ CXXFLAGS="$(FLAGS) -O1 -g1 -Wno-error" LDFLAGS="$(FLAGS)" MAKEMORE_EXT_CUDA=0 \
		$(abspath $(BIN))/python setup.py --quiet build_ext --inplace
	@echo "==> running the tests of what it built"
	cd $(COPY) && $(RUNTIME) $(abspath $(BIN))/python -m pytest --capture=sys $(PARALLEL) $(OPERATIONS) tests/memory -k 'not inductor'

# Each oldest compiler builds a copy of the tree in a folder of its own, whose kernels for one
# instruction set the operations' tests then run on: where there is AVX-512, `make test` has it.
# COMPILER is CXX for the build alone: torch.compile would take it too, and clang lacks OpenMP. How
# torch calls the operators, and differentiates them, is the same.
compilers: build
	@$(MAKE) --no-print-directory COMPILER=g++-11 CAPABILITY=avx2 with-compiler
	@$(MAKE) --no-print-directory COMPILER=clang++-14 CAPABILITY=default with-compiler

with-compiler: COPY = build/compilers/$(COMPILER)
with-compiler:
	@echo "==> building with $(COMPILER)"
	$(copy-tree)
	cd $(COPY) && CXX=$(COMPILER) MAKEMORE_EXT_CUDA=0 $(abspath $(BIN))/python setup.py --quiet build_ext --inplace
	@echo "==> running the operations' tests on its $(CAPABILITY) kernels"
	cd $(COPY) && MAKEMORE_EXT_CPU_CAPABILITY=$(CAPABILITY) $(abspath $(BIN))/python -m pytest $(PARALLEL) $(OPERATIONS) \
		--ignore-glob='*/test_derivatives.py' --ignore-glob='*/test_operator*.py'
	@echo "==> running the tests of the functions of vectors, built with $(COMPILER)"
	cd $(COPY) && CXX=$(COMPILER) MAKEMORE_EXT_CPU_CAPABILITY=$(CAPABILITY) $(abspath $(BIN))/python -m pytest $(PARALLEL) tests/native

cuda-check: build
	@$(BIN)/python $(FIND_NVCC) >/dev/null || \
		{ echo "==> installing nvcc"; $(BIN)/pip install --quiet $(CUDA_WHEELS); }
	@echo "==> testing the CUDA kernels without a GPU"
	$(BIN)/pytest $(PARALLEL) tests/cuda cuda_bench/tests

format: build
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(NATIVE)

bench: build
	@echo "==> measuring every operation and the training step beside torch's (less than two minutes)"
	$(BIN)/makemore-ext bench --all --quick

benchmark: build
	@echo "==> measuring (several minutes; leave the machine alone meanwhile)"
	$(BIN)/makemore-ext compare --json benchmarks/results/compare.json
	$(BIN)/makemore-ext bench --all --json benchmarks/results/bench.json
	$(BIN)/python benchmarks/training_step.py
	$(BIN)/python benchmarks/cross_entropy.py
	$(BIN)/python benchmarks/batch_norm.py
	$(BIN)/python benchmarks/models.py
	$(BIN)/python benchmarks/small_sizes.py
	$(BIN)/python benchmarks/distributed.py
	$(BIN)/python benchmarks/kernels.py
	$(BIN)/python benchmarks/accuracy.py
	$(BIN)/python benchmarks/cuda_model.py
	$(BIN)/python benchmarks/page.py

# Every page, for a reader with a browser: build/site/index.html.
docs: build
	@echo "==> building the site"
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -c docs . build/site

clean:
	rm -rf $(VENV) build dist *.egg-info compile_commands.json makemore_ext/*.so .mypy_cache .pytest_cache .ruff_cache
