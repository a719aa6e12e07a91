# Every target works on a bare checkout: it makes .venv first, and is quick when .venv is there and up to date.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

# bytecode is written when a module is first imported, whatever the environment says: tests start Python a thousand times
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test lint types wheel clean

demo: $(READY)
	$(BIN)/deepzero-sim demo

test: $(READY)
	$(BIN)/python -m pytest --numprocesses 3 --dist worksteal $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# on the package as it installs, because solvers/, datasets/ and benchmarks/ stand elsewhere in the repository
types: $(READY)
	rm -rf build
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --target build/types .
	cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml

# built, installed in a clean environment, and every package imported from there
wheel: $(READY)
	rm -rf build dist
	$(BIN)/python -m build --no-isolation --wheel --sdist .
	$(BIN)/python tests/check_wheel.py dist

# --no-compile: what is imported is compiled then, and that is little of what is installed
$(READY): pyproject.toml constraints.txt $(wildcard deepzero_sim/oracle/difference/kernels/native*.[ch])
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt setuptools wheel
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --no-build-isolation --editable '.[all,dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
