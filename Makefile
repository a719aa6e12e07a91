# Every target works on a bare checkout: it makes .venv first, which takes no time if .venv is up to date.
#
#   demo   correct a coarse wake solver, from data to runs/demo/report.md
#   test   run the tests; PYTEST_ARGS="-m 'slow or not slow'" includes the slow ones
#   lint   ruff: rules and format
#   types  mypy on the built wheel
#   wheel  import every package from a clean installation of the built wheel
#   clean  remove what the targets made, except runs/ and data/

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

# Write bytecode on first import, even if the environment forbids it: the tests start Python a thousand times.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test lint dist types wheel clean

demo: $(READY)
	$(BIN)/deepzero-sim demo

test: $(READY)
	$(BIN)/python -m pytest --numprocesses 3 --dist worksteal $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Build what is released; types and wheel look at that, as an editable install finds files that a wheel would omit.
dist: $(READY)
	rm -rf build dist
	$(BIN)/python -m build --no-isolation --wheel --sdist .

# In a folder of its own, because solvers/, datasets/ and benchmarks/ are elsewhere in the repository.
types: dist
	$(BIN)/python -m pip install --quiet --no-deps --target build/types dist/*.whl
	cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml

wheel: dist
	$(BIN)/python tests/check_wheel.py dist

# --no-compile: modules are compiled when they are imported, and few of the installed ones ever are.
$(READY): pyproject.toml constraints.txt $(wildcard deepzero_sim/oracle/difference/kernels/native*.[ch])
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt setuptools wheel
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --no-build-isolation --editable '.[all,dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
