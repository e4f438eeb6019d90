PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WEB := edge_assets/web/node_modules/.installed
EARLIER := --checkpoint digits-epoch08 --target x86-64-vnni
PIP := $(BIN)/pip --disable-pip-version-check --quiet

.PHONY: demo test serve lock chromium

demo: $(STAMP) $(WEB) chromium  ## Build the example model for every target and print its scorecard
	$(BIN)/edge-assets build --model digits $(EARLIER)
	$(BIN)/edge-assets build --model digits
	$(BIN)/edge-assets scorecard --model digits
	@echo
	@echo "Next: 'make serve', then open http://127.0.0.1:3000 (Dagster) and http://127.0.0.1:5000 (MLflow)."
	@echo "The scorecards are also pages: $${EDGE_ASSETS_HOME:-.edge-assets}/scorecards/digits/"
	@echo "Released folders are below $${EDGE_ASSETS_HOME:-.edge-assets}/releases/digits/"

test: $(STAMP) $(WEB) chromium  ## Pass all tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

serve: $(STAMP)  ## Dagster and MLflow on 127.0.0.1, until Ctrl-C
	@exec $(BIN)/edge-assets serve

lock: $(STAMP)  ## Write the versions of this environment to requirements.lock
	$(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//' > requirements.lock

# torch first and alone: what else needs it then takes the version that is there
$(STAMP): pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(PIP) install $$(grep '^torch==' requirements.lock)
	$(PIP) install -r requirements.lock
	$(PIP) install --no-deps --editable .
	@touch $@

# the browser family's runtimes, pinned by hash; no package of theirs runs a script
$(WEB): edge_assets/web/package-lock.json
	@command -v npm >/dev/null || if [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -y -qq npm >/dev/null; \
	else echo "npm is missing, and the browser family needs it: sudo apt-get install npm" >&2; exit 1; fi
	npm ci --ignore-scripts --no-audit --no-fund --loglevel=error --prefix edge_assets/web
	@touch $@

chromium:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
	if [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -y -qq chromium >/dev/null; \
	else echo "Chromium is missing, and the browser family needs it: sudo apt-get install chromium" >&2; exit 1; fi
