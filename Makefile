# The suite by name: `make reproduce` from a fresh clone makes every figure and table of a suite.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup reproduce released weights bench test test-slurm torture check format constraints lock

PYTHON ?= python3
SUITE ?= quick
# Passed on to pytest, for example: make test ARGS="-k routing"
ARGS ?=
# The version whose numbers the reports hold; `make constraints` keeps it.
TORCH := 2.13.0

BIN := .venv/bin
STAMP := .venv/.installed
REPORT := reports/$(SUITE)
# What `make bench` measures: these images, with the weights that `make released` got.
LATENCY := reports/latency
ROUNDS ?= 3
PRECISIONS ?= float32 bf16
PEERS ?= onnxruntime openvino openvino-bf16
# Of the weights that `make weights` trains.
LICENCE := MIT, as the suite; trained on photographs under the Unsplash licence
IMAGES := $(sort $(wildcard data/raw/bench/*.png))
RELEASED := $(sort $(wildcard results/released/*/released/weights.safetensors))
FRESH := $(if $(filter %/srresnet-original/released/weights.safetensors,$(RELEASED)),,--fresh srresnet)
SNAKEMAKE := $(BIN)/snakemake --configfile 'configs/suites/$(SUITE).yaml'
ifneq ($(words $(SUITE)),1)
$(error SUITE='$(SUITE)': give one name of configs/suites, without blanks)
endif

# The rules of the workflow call `pcsr` by its bare name.
export PATH := $(CURDIR)/$(BIN):$(PATH)

# Snakemake and matplotlib write caches at home, where that is possible.
CACHE := $${XDG_CACHE_HOME:-$$HOME/.cache}
ifneq ($(shell mkdir -p "$(CACHE)" 2>/dev/null && test -w "$(CACHE)" && echo yes),yes)
  export XDG_CACHE_HOME := $(CURDIR)/.snakemake/cache
  export MPLCONFIGDIR := $(CURDIR)/.snakemake/cache/matplotlib
endif

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

setup: $(STAMP) ## install the suite into .venv (PYTHON=python3.12 for another Python)

# Checked before Snakemake reads it, which would run Python in a file that says `__use_yte__: true`.
reproduce: setup ## data, training, measuring, report of a suite (SUITE=quick)
	@$(BIN)/pcsr check 'configs/suites/$(SUITE).yaml'
	$(SNAKEMAKE)
	@$(MAKE) --no-print-directory $(REPORT)/report.html
	@test ! -f $(REPORT)/index.html || printf '\nThe answer, and images to turn the knob on:\n  %s\n' $(REPORT)/index.html
	@printf '\nFigures:\n'; find $(REPORT) -name '*.png' | sort | sed 's/^/  /'
	@printf 'Tables:\n  %s\n' $(REPORT)/operating_points.md
	@printf 'Fair comparisons:\n  %s\n' $(REPORT)/fairness.md
	@printf 'Leaderboard:\n  %s\n' $(REPORT)/leaderboard.md
	@test ! -f $(REPORT)/claims.md || printf 'Claims, checked:\n  %s\n' $(REPORT)/claims.md
	@printf 'Weights and images, and what was not there:\n  %s\n' $(REPORT)/inputs.md
	@printf 'All of it in one page:\n  %s\n' $(REPORT)/report.html
	@printf '\n'; cat 'results/$(SUITE)/summary.txt'

released: ## the published numbers from released weights (PCSR_MIRROR=folder instead of downloads)
	@$(MAKE) --no-print-directory reproduce SUITE=released

weights: ## train what weights/ holds (hours; photographs as configs/datasets.yaml says), and put it there
	@$(MAKE) --no-print-directory reproduce SUITE=weights
	$(BIN)/pcsr ship --suite configs/suites/weights.yaml --out weights --licence "$(LICENCE)"

# A file per image, made once, in a run of its own: delete it to measure again. SRResNet's time hardly
# depends on its weights, so fresh ones do where there are no others.
bench: $(IMAGES:data/raw/bench/%.png=$(LATENCY)/cpu-%.json) $(LATENCY)/cpu-sizes.json ## time the engine on data/raw/bench/*.png, quiet machine
	@$(if $(IMAGES),,$(error put HR images into data/raw/bench))
	@$(if $(RELEASED),,$(error make the published weights first: make released))
	$(BIN)/pcsr latency $^ --out $(LATENCY)/cpu.md
	@printf 'Times over FLOPs:\n  %s\n' $(LATENCY)/cpu.html

$(LATENCY)/cpu-%.json: data/raw/bench/%.png | $(STAMP)
	$(BIN)/pcsr bench --weights $(RELEASED) $(FRESH) --images $< --knob 0 1 --budget 0.6 \
	  --precision $(PRECISIONS) $(if $(PEERS),--peers $(PEERS)) --rounds $(ROUNDS) --profile --out $@

$(LATENCY)/cpu-sizes.json: | $(STAMP)
	$(BIN)/pcsr bench --weights $(filter %-original/released/weights.safetensors \
	  %-pcsr/released/weights.safetensors,$(RELEASED)) $(FRESH) \
	  --images $(lastword $(IMAGES)) --knob 0 --precision $(PRECISIONS) --rounds 0 --steps 4 \
	  --max-memory 2GiB --out $@

# A process per core, each with one thread; the tests of a file stay together, because they share
# what a workflow made.
test: setup ## run the tests (ARGS="-k routing" for some)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile $(ARGS)

test-slurm: setup ## the smoke suite as SLURM jobs that are killed and requeued (a quarter of an hour; root, Debian's slurmctld, slurmd)
	OMP_NUM_THREADS=1 tests/slurm/run.sh $(BIN)/python -m pytest -n 0 tests/slurm/on_slurm.py $(ARGS)

# One process tries a kind, so that time and memory are its own. Half an hour of a core; Linux.
torture: setup ## broken and hostile inputs by the thousand, kills, full disks (ARGS="--kind images --count 500")
	@OMP_NUM_THREADS=1 PYTHONPATH='$(CURDIR)/tests' $(BIN)/python -m torture $(ARGS)

check: setup ## formatting, lint, types, import layers, and dry runs of the workflow
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/mypy
	$(BIN)/lint-imports
	for suite in smoke released; do \
	  env -u PCSR_MIRROR $(BIN)/python workflow/lint.py --configfile configs/suites/$$suite.yaml \
	    || exit 1; done
	for suite in configs/suites/*.yaml; do \
	  env -u PCSR_MIRROR $(BIN)/snakemake --dry-run --quiet --configfile $$suite || exit 1; done

format: setup ## format the code and fix what ruff can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/snakefmt Snakefile workflow

# A resolution from nothing, for all platforms: freezing .venv would write this machine's paths,
# platform and local versions such as `+cpu`. uv only resolves; pip installs.
constraints: $(BIN)/pip ## resolve constraints.txt again, to the newest versions that fit (then make lock)
	$(BIN)/pip install --quiet uv
	{ echo '# What `pip install -c constraints.txt -e ".[dev]"` takes of each package: the versions that the'; \
	  echo '# results were made with. Constraints install nothing by themselves: a CPU build of torch leaves the'; \
	  echo '# nvidia-*, cuda-* and triton lines unused. For Python 3.11 and later, on any platform.'; \
	  echo '# Made by `make constraints`:'; \
	  echo "#   echo 'torch==$(TORCH)' | uv pip compile --universal --python-version 3.11 --no-header \\"; \
	  echo '#     --no-annotate --no-emit-index-url --extra dev pyproject.toml -'; \
	  echo 'torch==$(TORCH)' | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header \
	    --no-annotate --no-emit-index-url --extra dev pyproject.toml -; \
	} > .constraints.tmp || { rm -f .constraints.tmp; exit 1; }
	mv .constraints.tmp constraints.txt

# Without torch and what only its CUDA builds need: which build is right depends on the machine.
lock: $(BIN)/pip ## write requirements.lock again: the versions of constraints.txt with their hashes
	$(BIN)/pip install --quiet uv
	{ echo '# The versions of constraints.txt with the hashes of their files, for installing nothing else:'; \
	  echo '#   pip install torch==$(TORCH)   # a build that suits the machine; it is not in this list'; \
	  echo '#   pip install --require-hashes -r requirements.lock && pip install --no-deps -e .'; \
	  echo '# Made by `make lock`.'; \
	  $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	    --no-annotate --no-emit-index-url --constraint constraints.txt --extra dev \
	    $$(sed -nE 's/^((torch|triton|nvidia|cuda)[a-z0-9-]*)==.*/--no-emit-package \1/p' constraints.txt) \
	    pyproject.toml; \
	} > .constraints.tmp || { rm -f .constraints.tmp; exit 1; }
	mv .constraints.tmp requirements.lock

# pip is the last thing that venv writes: a half-made .venv is made again.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is missing or older than 3.11; name a newer one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; \
	  exit 1; }
	$(PYTHON) -m venv .venv

# `| pip`: it has to be there, its date does not matter.
$(STAMP): pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	@touch $@

# Made after the figures and tables, by a make of its own that sees the files as they are then;
# again only when one of them is newer.
$(REPORT)/report.html: $(filter-out %/report.html,$(wildcard $(REPORT)/* $(REPORT)/*/*)) | $(STAMP)
	$(SNAKEMAKE) --report $(@D)/.report.html && mv $(@D)/.report.html $@
