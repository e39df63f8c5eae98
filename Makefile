# Two commands matter: `make book` and `make test`. Each sets up what it needs, once, and says what it does.
# `make help` lists the rest.

PYTHON ?= python3
VENV   ?= .venv
PORT   ?= 8000
# PyTorch for the tests. On Linux the file on the public index may carry several gigabytes of GPU libraries.
# A folder of wheels named by PIP_FIND_LINKS is searched too; `make test TORCH_BACKEND=cpu` asks PyTorch's own index.
TORCH  ?= torch==2.13.0
TORCH_BACKEND ?=
# pip reads PIP_FIND_LINKS by itself, uv only its own variable.
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
endif

BIN  := $(VENV)/bin
PY   := $(BIN)/python
UV   := $(BIN)/uv
SAY  := @printf '\n==> %s\n'
# A stamp is the memory of a finished set-up step: it is older than its recipe's inputs exactly when the step must run again.
VENV_READY  := $(VENV)/.ready-uv
BOOK_READY  := $(VENV)/.ready-book
TEST_READY  := $(VENV)/.ready-test
LAB_READY   := $(VENV)/.ready-lab
NODE_READY  := node_modules/.ready
CLAIMS      := _build/claims.json
VERDICT     := _build/claims.exit
SOURCES     := $(shell find qkvtheory proofs -name '*.py' -o -name '*.v' -o -name '*.toml') $(wildcard book/results/*.json)

export PYTHONUTF8 = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help book test check serve lab bench lock clean
.DELETE_ON_ERROR:

help:  ## list these targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

book: $(BOOK_READY) $(NODE_READY) $(VERDICT)  ## set up, run every check this machine can run, build the book
	$(SAY) "Building the pages"
	@# A page with a warning counts as built for Sphinx; forgetting what it read makes the next run warn again.
	@$(BIN)/jupyter-book build -W -n --keep-going . || { rm -rf _build/.doctrees; exit 1; }
	@verdict=$$(cat $(VERDICT)); \
	if [ "$$verdict" != 0 ]; then printf '\n==> The book is built, but a claim is red: see the table above or run make check\n'; exit "$$verdict"; fi
	$(SAY) "The book is at _build/html/index.html"

test: $(TEST_READY) book  ## set up, then format, lint, types and every test
	$(SAY) "Format, lint, types"
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check
	@$(BIN)/mypy
	$(SAY) "Tests"
	@$(PY) -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile $(ARGS)

check:  ## run the checks now, whether or not anything changed
	@rm -f $(VERDICT)
	@$(MAKE) --no-print-directory $(VERDICT)
	@exit $$(cat $(VERDICT))

serve: $(BOOK_READY)  ## show the built book at http://127.0.0.1:8000 (PORT=8001 for another)
	@test -f _build/html/index.html || { echo "There is no book yet: run make book first."; exit 1; }
	@$(PY) -c 'import socket; socket.create_server(("127.0.0.1", $(PORT))).close()' 2>/dev/null || { \
		echo "Port $(PORT) is in use. Try: make serve PORT=$$(($(PORT) + 1))"; exit 1; }
	$(SAY) "http://127.0.0.1:$(PORT)  (Ctrl-C ends it)"
	@$(PY) -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

lab: $(LAB_READY)  ## open the notebooks in JupyterLab
	@$(BIN)/jupyter lab notebooks

bench: $(TEST_READY) book  ## measure what the design promises: page weight, times, memory
	@$(PY) -m tests.bench $(ARGS)

lock: $(VENV_READY)  ## write requirements/*.lock anew from pyproject.toml
	@$(LOCK) --extra book --extra test --group build pyproject.toml -o requirements/book.lock
	@echo uv | $(LOCK) - -o requirements/uv.lock

clean:  ## remove everything make has made
	rm -rf _build $(VENV) node_modules

LOCK = $(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make lock"

# --- set-up, each step behind its stamp ---------------------------------------------------------------------------

$(VENV_READY): requirements/uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed; '$(PYTHON)' is not one. Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(SAY) "Making the virtual environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --require-hashes -r requirements/uv.lock
	@touch $@

$(BOOK_READY): $(VENV_READY) requirements/book.lock pyproject.toml
	$(SAY) "Installing the locked packages and qkvtheory itself"
	@$(UV) pip install --python $(PY) --require-hashes -r requirements/book.lock
	@$(UV) pip install --python $(PY) --no-deps --no-build-isolation --editable .
	@touch $@

$(TEST_READY): $(BOOK_READY)
	$(SAY) "Installing PyTorch for the tests"
	@$(UV) pip install --python $(PY) $(if $(TORCH_BACKEND),--torch-backend $(TORCH_BACKEND)) $(TORCH)
	@touch $@

$(LAB_READY): $(BOOK_READY)
	$(SAY) "Installing JupyterLab"
	@$(UV) pip install --python $(PY) --constraint requirements/book.lock jupyterlab
	@touch $@

$(NODE_READY): package.json package-lock.json $(BOOK_READY)
	$(SAY) "Installing the locked npm packages"
	@PATH="$(abspath $(BIN)):$$PATH" npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

# Exit 1 means that a claim is red. The pages must still be built, to show it; `book` then fails at its end.
# A crash also exits with 1, but leaves no manifest. A manifest written by hand, newer than the verdict, is made anew.
$(VERDICT): $(BOOK_READY) $(SOURCES) $(CLAIMS)
	$(SAY) "Checking every claim in every lane this machine has"
	@mkdir -p _build && rm -f $(CLAIMS)
	@$(PY) -m qkvtheory check --json $(CLAIMS); verdict=$$?; test -f $(CLAIMS) && test $$verdict -le 1 && echo $$verdict > $@

$(CLAIMS): ;
