# Two commands do everything on a machine with Python and make:
#
#   make serve   the demo, on http://localhost:6543
#   make test    all tests; SQLite always, servers where they are reachable
#
# And for those who change it: "make outcomes" makes docs/outcomes.rst from
# what the tests observe, on all databases, and "make matrix" docs/matrix.rst;
# "make bench-trim" measures how fast pls-trim is, and who waits for it;
# "make bench-codecs" what JSON and encryption cost.
#
# Each makes its own virtual environment first.

PYTHON ?= python3
VENV ?= .venv
# Set by continuous integration: a database that cannot be reached fails.
REQUIRE_DATABASES ?=
ifneq ($(REQUIRE_DATABASES),)
TESTING = testing,mysqlclient
else
TESTING = testing
endif

.PHONY: serve test test-lowest outcomes matrix bench-trim bench-codecs clean

serve: $(VENV)/demo.installed
	$(VENV)/bin/pserve development.ini

test: $(VENV)/$(TESTING).installed
	REQUIRE_DATABASES=$(REQUIRE_DATABASES) $(VENV)/bin/python -m pytest $(ARGS)

outcomes: $(VENV)/testing,mysqlclient.installed
	REQUIRE_DATABASES=1 $(VENV)/bin/python -m pytest --write-outcomes \
		$$(grep -l "outcomes(" tests/test_*.py)

matrix: $(VENV)/testing,mysqlclient.installed
	REQUIRE_DATABASES=1 $(VENV)/bin/python -m pytest --write-outcomes \
		tests/test_store_contract.py tests/test_matrix.py

bench-trim: $(VENV)/testing.installed
	$(VENV)/bin/python -m benchmarks.trim $(ARGS)

# What is compared only is installed only here; what is missing is left out.
bench-codecs: $(VENV)/testing.installed
	-$(VENV)/bin/python -m pip install -q orjson msgspec cryptography
	$(VENV)/bin/python -m benchmarks.codecs $(ARGS)

# The lowest versions setup.py allows; on the lowest Python with PYTHON=…
test-lowest: .venv-lowest/$(TESTING).installed
	REQUIRE_DATABASES=$(REQUIRE_DATABASES) .venv-lowest/bin/python -m pytest $(ARGS)

.venv-lowest/%.installed: setup.py tests/lowest.txt
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install -q -c tests/lowest.txt -e '.[$*]'
	touch $@

$(VENV)/%.installed: setup.py | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -q -e '.[$*]'
	touch $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf .venv .venv-lowest build dist *.egg-info
