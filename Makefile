# What people and CI run. `make` alone lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ifdef ENV_FILE
include_env := set -a; . $(abspath $(ENV_FILE)); set +a;
endif
# Two tests at a time: most of them wait for processes and disks. What one file shares is made once for `test`.
workers = -n $(or $(WORKERS),2) --dist $(1)
# The image of what runs in containers, unless the environment names another.
image := export DOCKER_IMAGE_NAME="$${DOCKER_IMAGE_NAME:-runners}";
# Words given on the command line reach the shell as they were typed, quotes, blanks and dollars with them.
quoted = '$(subst ','\'',$(value $(1)))'
option = $(if $(value $(1)),--$(1) $(call quoted,$(1)))

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z_-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

# setuptools finds packages of two source folders through a hook that slows every start of Python; two lines do it too.
link_sources = printf '%s\n' '$(CURDIR)/client' '$(CURDIR)/scheduler' > "$$(echo $(VENV)/lib/python3*/site-packages/__editable__.runnersd-*.pth)"

# The lock pins every version; setup.cfg says the lower bounds.
$(VENV)/.demo: setup.cfg pyproject.toml requirements.lock
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --constraint requirements.lock pip setuptools
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock \
		--config-settings editable_mode=compat --editable '.[daemon,terminal,demo]'
	@$(link_sources)
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock \
		--config-settings editable_mode=compat --editable '.[daemon,terminal,demo,experiments,dev]'
	@$(link_sources)
	@touch $@

.PHONY: install
install: $(VENV)/.demo ## make the virtual environment, with the daemon and the client in it

.PHONY: demo
demo: $(VENV)/.demo ## run a real small experiment through a daemon of its own
	@$(include_env) $(BIN)/python configs/pipelines/demo/run.py

.PHONY: run
run: $(VENV)/.demo ## run the daemon in the foreground, as yourself
	@$(include_env) $(BIN)/runnersd

.PHONY: pipeline
pipeline: $(VENV)/.demo ## run a pipeline file and follow it: make pipeline yml=FILE
	@test -n "$(yml)" || { echo 'say which: make pipeline yml=configs/pipelines/demo.yml'; exit 2; }
	@$(include_env) $(BIN)/runners-client up && $(BIN)/runners-client submit "$(yml)" --follow

.PHONY: run_in_container
run_in_container: $(VENV)/.demo ## run in a container: make run_in_container command="ls" [name=N] [gpus=0,1]
	@test -n $(call quoted,command) || { echo 'say what: make run_in_container command="ls"'; exit 2; }
	@$(include_env) $(image) $(BIN)/python -m runners.run_in_docker $(call option,name) $(call option,gpus) -- \
		$(call quoted,command)

.PHONY: run_in_host
run_in_host: $(VENV)/.demo ## run on this machine: make run_in_host command="ls" [name=N] [gpus=0,1]
	@test -n $(call quoted,command) || { echo 'say what: make run_in_host command="ls"'; exit 2; }
	@$(include_env) $(BIN)/python -m runners.run_in_host $(call option,name) $(call option,gpus) -- \
		$(call quoted,command)

.PHONY: jupyter
jupyter: $(VENV)/.demo ## run notebooks in a container, on the loopback address: make jupyter [gpus=0]
	@$(include_env) $(image) port="$${JUPYTER_HOST_PORT:-8888}"; \
		echo "Jupyter will be at http://127.0.0.1:$$port, with the token it shows"; \
		$(BIN)/python -m runners.run_in_docker --name jupyter --port "$$port:8888" $(call option,gpus) -- \
		jupyter notebook --ip 0.0.0.0 --port 8888 --no-browser --allow-root

.PHONY: tensorboard
tensorboard: $(VENV)/.demo ## show $ARTIFACTS_DIRECTORY by TensorBoard, in a container, on the loopback address
	@$(include_env) $(image) port="$${TENSORBOARD_HOST_PORT:-6006}"; \
		: "$${ARTIFACTS_DIRECTORY:?is not set: say ENV_FILE=configs/environment/default.sh}"; \
		echo "TensorBoard will be at http://127.0.0.1:$$port"; \
		$(BIN)/python -m runners.run_in_docker --name tensorboard --port "$$port:6006" -- \
		tensorboard --logdir "$$ARTIFACTS_DIRECTORY" --host 0.0.0.0 --port 6006

.PHONY: docker
docker: ## build the image of jobs: make docker [base=IMAGE] [packages="A B"] [pip="A B"]
	@$(include_env) $(image) docker build --tag "$$DOCKER_IMAGE_NAME" --file docker/Dockerfile \
		$(if $(base),--build-arg BASE=$(call quoted,base)) $(if $(packages),--build-arg PACKAGES=$(call quoted,packages)) \
		$(if $(pip),--build-arg PIP=$(call quoted,pip)) $(args) .

.PHONY: system-packages
system-packages: ## install what the tests need from Debian (as root; says so and goes on elsewhere)
	@bash tests/install-packages.sh

.PHONY: check
check: $(VENV)/.dev ## format, lint, types, import rules, and the tests that need no I/O
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -m 'not slow' tests/core $(call workers,load)

.PHONY: format
format: $(VENV)/.dev ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: test
test: $(VENV)/.dev system-packages ## the tests
	$(BIN)/pytest -m 'not slow and not systemd and not real_cards' $(call workers,loadfile)

.PHONY: test-faults
# The same seeds each time, so that a change is judged by itself; `make test-faults SEED=N` leads other lives.
test-faults: $(VENV)/.dev system-packages ## long runs: kill -9 rounds, power cuts, malformed files, full disks, many seeds
	SEED=$${SEED:-20261126} $(BIN)/pytest -m 'slow and not systemd and not real_cards' --timeout 1200 $(call workers,worksteal)

.PHONY: test-systemd
test-systemd: $(VENV)/.dev system-packages ## the shipped units under a real systemd, in a container
	$(BIN)/pytest -m systemd --timeout 900

.PHONY: test-cards
test-cards: $(VENV)/.dev ## a real daemon and real jobs on this machine's own NVIDIA cards; nobody may be on them
	$(BIN)/pytest -m real_cards -rs

.PHONY: bench
bench: $(VENV)/.dev ## a table of speeds, each a ratio to a floor measured in the same run
	PYTHONPATH=tests $(BIN)/python -m benchmarks.bench $(args)

.PHONY: lock
lock: $(VENV)/.dev ## pin the newest versions that setup.cfg allows
	$(BIN)/pip-compile --quiet --upgrade --allow-unsafe --strip-extras --no-emit-index-url --no-emit-trusted-host --no-emit-find-links \
		--no-header --no-annotate --extra daemon --extra terminal --extra plot --extra experiments --extra demo --extra dev \
		--output-file requirements.lock setup.cfg

.PHONY: clean
clean: ## remove what make made (not the daemon's state)
	rm -rf $(VENV) .demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -o -name '*.egg-info' | xargs rm -rf
