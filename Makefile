PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WEB := edge_assets/toolchains/web/static/node_modules/.installed
VOICES := examples/voices/checkpoints/pretrained.pt
DEMO := cortex-m7 browser-wasm iphone-15-pro pixel-8 l4 this-cpu
EARLIER := --checkpoint digits-epoch08 --target this-cpu
IN_DEPTH := EDGE_ASSETS_MODELS=examples.digits.spec:DIGITS_IN_DEPTH
HOME_FOLDER := $(or $(EDGE_ASSETS_HOME),.edge-assets)
SCORECARDS := $(HOME_FOLDER)/scorecards
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder
COVERAGE := $(CURDIR)/.coverage-data
PIP := $(BIN)/pip --disable-pip-version-check --quiet
TOOLS := .tools
TOOLS_STAMP := $(TOOLS)/.installed
MLFLOW2 := $(TOOLS)/mlflow2
BUILD_LOCK := requirements/build.lock
LOCKS := requirements/run.lock requirements/examples.lock requirements/test.lock
# each file by its hash and nothing that no lock names, so there is nothing to resolve; only wheels, which run no code to
# be installed, but for two small packages that the index has as sources alone
LOCKED := --require-hashes --no-deps --only-binary :all:
SOURCES := --no-binary tensorrt-rtx --no-binary tensorrt-rtx-cu13 --no-build-isolation
# uv fetches many files at once, which takes a third of pip's time; it asks the index that pip is configured for
UV = UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$${PIP_INDEX_URL:-$$($(PIP) config get global.index-url 2>/dev/null)}}" \
	UV_SYSTEM_CERTS=1 $(BIN)/uv pip install --quiet --python $(BIN)/python

# what is imported is compiled once, whatever the environment says: tests and builds start hundreds of processes
export PYTHONDONTWRITEBYTECODE =
# what Python and what Debian brings come at the same time, and so do the tests and what reads the code
MAKEFLAGS += --jobs=2
APT := flock $(CURDIR) apt-get

.PHONY: demo demo-all test test-all lint suite coverage compat serve lock audit chromium engines headers sshd

# one target per family, those first that take longest to be verified
demo: $(STAMP) $(WEB) chromium  ## Build the example model for one target per family and print what ships on each
	$(BIN)/edge-assets build --model digits $(foreach target,$(DEMO),--target $(target))
	$(BIN)/edge-assets scorecard --model digits
	@echo
	@echo "Scorecard, a page:  $(SCORECARDS)/digits/*/scorecard.html"
	@echo "Dagster and MLflow: make serve, then the two addresses that it prints"
	@echo "Released folders:   $(HOME_FOLDER)/releases/digits/"

demo-all: $(STAMP) $(WEB) chromium engines  ## Two checkpoints, all 25 targets, every scheme, with fine-tuning and search: half an hour
	$(IN_DEPTH) $(BIN)/edge-assets build --model digits_in_depth $(EARLIER)
	$(IN_DEPTH) $(BIN)/edge-assets build --model digits_in_depth
	$(IN_DEPTH) $(BIN)/edge-assets scorecard --model digits_in_depth
	@echo
	@echo "Dagster with this model: $(IN_DEPTH) make serve"

test: SOME := -m 'not slow'
test: lint suite  ## Pass the tests, in about ten minutes on two cores

test-all: lint suite  ## All tests, those too that take long for what they find

$(VOICES): | $(STAMP)
	$(BIN)/python -m examples.voices.fetch

lint: $(STAMP)  ## What reads the code: style, types, the order of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

ifneq ($(filter test-all,$(MAKECMDGOALS)),)
suite: $(VOICES)
endif
suite: $(STAMP) $(WEB) chromium headers sshd
	$(PYTEST) $(SOME)

# apart from test: Python 3.11 traces every call, those of torch and Dagster too, which makes them about 40 % slower
coverage: $(STAMP) $(WEB) chromium  ## All tests again, then how much of the code they run and which files least
	rm -rf "$(COVERAGE)" && mkdir "$(COVERAGE)"
	COVERAGE_FILE="$(COVERAGE)/data" $(PYTEST) --cov --cov-report=
	@COVERAGE_FILE="$(COVERAGE)/data" $(BIN)/coverage report --sort=cover | sed -n -e 1,12p -e /^TOTAL/p

# apart from test: an environment of 600 MB more, for one test, which is skipped where it is not there
compat: $(STAMP) $(MLFLOW2)/.installed  ## A build that logs to a real server of MLflow's major version before ours
	$(BIN)/python -m pytest tests/resources/test_mlflow2.py

serve: $(STAMP)  ## Dagster and MLflow on 127.0.0.1, until Ctrl-C
	@exec $(BIN)/edge-assets serve

# not after $(STAMP), which would put the locked versions back
lock: $(TOOLS_STAMP)  ## Write the versions of the two environments, and the hashes of their files, to requirements/
	$(BIN)/python requirements/lock.py $(TOOLS)

audit: $(TOOLS_STAMP)  ## Look for known vulnerabilities of what is locked; asks the index for each version
	$(TOOLS)/bin/pip-audit --disable-pip --require-hashes $(foreach lock,$(BUILD_LOCK) $(LOCKS),--requirement $(lock))
	$(TOOLS)/bin/pip-audit --disable-pip --require-hashes --requirement requirements/tools.lock
	$(TOOLS)/bin/pip-audit --disable-pip --no-deps --requirement requirements/torch.txt

# torch last: what it shares with others is there by then in its locked version, and it brings only what belongs to the
# build that suits the machine
$(STAMP): pyproject.toml $(BUILD_LOCK) $(LOCKS) requirements/torch.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install $(LOCKED) --requirement $(BUILD_LOCK)
	$(UV) $(LOCKED) $(SOURCES) $(foreach lock,$(LOCKS),--requirement $(lock))
	$(PIP) install --no-compile --requirement requirements/torch.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	$(PIP) check
	@touch $@

$(TOOLS_STAMP): requirements/tools.lock
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/pip --disable-pip-version-check --quiet install $(LOCKED) --requirement requirements/tools.lock
	@touch $@

$(MLFLOW2)/.installed: requirements/mlflow2.txt
	$(PYTHON) -m venv $(MLFLOW2)
	$(MLFLOW2)/bin/pip --disable-pip-version-check --quiet install --requirement requirements/mlflow2.txt
	@touch $@

# the browser family's runtimes, pinned by hash; no package of theirs runs a script
$(WEB): edge_assets/toolchains/web/static/package-lock.json
	@command -v npm >/dev/null || if [ "$$(id -u)" = 0 ]; then $(APT) update -qq && $(APT) install -y -qq npm >/dev/null; \
	else echo "npm is missing, and the browser family needs it: sudo apt-get install npm" >&2; exit 1; fi
	npm ci --ignore-scripts --no-audit --no-fund --loglevel=error --prefix edge_assets/toolchains/web/static
	@touch $@

chromium:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
	if [ "$$(id -u)" = 0 ]; then $(APT) update -qq && $(APT) install -y -qq chromium >/dev/null; \
	else echo "Chromium is missing, and the browser family needs it: sudo apt-get install chromium" >&2; exit 1; fi

# apart from chromium: they take a minute, and tests of an engine that is not installed are skipped
engines:  ## Firefox and WebKitGTK, beside which nothing else is needed to verify and measure in them
	@command -v firefox-esr >/dev/null || command -v firefox >/dev/null || MISSING=firefox-esr; \
	{ command -v WebKitWebDriver && command -v xvfb-run && command -v xauth && command -v dbus-run-session; } >/dev/null || \
	MISSING="$$MISSING webkit2gtk-driver xvfb xauth dbus-daemon"; \
	if [ -z "$$MISSING" ]; then :; \
	elif [ "$$(id -u)" = 0 ]; then $(APT) update -qq && $(APT) install -y -qq $$MISSING >/dev/null; \
	else echo "missing, and the targets browser-firefox and browser-webkit need it: sudo apt-get install $$MISSING" >&2; exit 1; fi

headers:
	@sh tests/onnxruntime_headers.sh .headers

# a real SSH server for the tests of devices, which skip where there is none
sshd:
	@test -x /usr/sbin/sshd || command -v sshd >/dev/null || if [ "$$(id -u)" = 0 ]; then \
	(timeout 90 $(APT) update -qq && timeout 90 $(APT) install -y -qq openssh-server openssh-client >/dev/null) || \
	echo "the tests of devices are skipped: no OpenSSH server"; else \
	echo "the tests of devices are skipped: sudo apt-get install openssh-server"; fi
