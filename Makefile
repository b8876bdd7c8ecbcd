# make demo   from real data to a sampled ensemble of sparse networks (runs/demo)
# make tickets               every ticket finder on digits (experiments/results/tickets/digits.csv)
# make bayes-tickets         Bayesian lottery tickets on digits, with a report (runs/bayes_tickets)
# make bayes-tickets-mnist   the same questions on LeNet-300-100 and MNIST (hours; resumable)
# make lottery              the lottery ticket hypothesis on LeNet-300-100 (two hours; resumable)
# make bench-sparse          how fast sparse networks run: 2:4 on CUDA where there is a card, compressed rows on the CPU
# make bench-gpu             every stage on a card beside the CPU: equal results, and how much faster (10 minutes)
# make control              tickets of policies of CartPole on a small scale (runs/control, two minutes)
# make language   tickets of a pre-trained BERT beside their controls, a few minutes: DATA=folder of the unpacked packages
# make fuzz   random command lines, damaged files, wrong calls and kills: MINUTES=10 SEED=0 (experiments/results/fuzz)
# make results              pages of results and the README's figure, from experiments/results
# make docs                  the documentation site, in build/site
# make test   the tests          make lint   style and types          make clean-env   remove .venv

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
DOCS   := $(VENV)/.ready-docs

# Threads sleep while they wait; on a shared machine spinning threads steal each other's core.
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 0
# Compiled modules are kept: the tests start many processes.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: bench-gpu language control fuzz demo tickets lottery bench-sparse bayes-tickets bayes-tickets-mnist results test lint docs env clean-env
.DEFAULT_GOAL := demo

demo: $(READY)
	$(BIN)/python -m experiments.demo.run

tickets: $(READY)
	$(BIN)/python -m experiments.tickets.digits

lottery: $(READY)
	$(BIN)/python -m experiments.tickets.lottery

bench-sparse: $(READY)
	$(BIN)/python -m experiments.benchmarks.sparse_rows
	$(BIN)/python -m experiments.benchmarks.sparse

bench-gpu: $(READY)
	$(BIN)/python -m experiments.benchmarks.gpu

bayes-tickets: $(READY)
	$(BIN)/python -m experiments.bayes.digits

bayes-tickets-mnist: $(READY)
	$(BIN)/python -m experiments.bayes.mnist
	$(BIN)/python -m experiments.bayes.figures

control: $(READY)
	$(BIN)/python -m experiments.control.cartpole --policies 4 --updates 96 --levels 2 --out runs/control --results runs/control

DATA ?= data
language: $(READY)
	$(BIN)/python -m experiments.language.bert_tickets --data-root $(DATA) --networks 2 --steps 30 --validation 100 --test 300 \
		--out runs/language --results runs/language

MINUTES ?= 10
SEED ?= 0
fuzz: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m experiments.fuzz.run --minutes $(MINUTES) --seed $(SEED)

results: $(READY)
	$(BIN)/python -m experiments.common.pages
	$(BIN)/python -m experiments.common.overview

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo 'the site is in build/site: open build/site/index.html, or run $(BIN)/mkdocs serve'

env: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "weightspace needs Python 3.11 or later, $(PYTHON) is `$(PYTHON) --version`. Try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)

$(DOCS): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $(DOCS)

clean-env:
	rm -rf $(VENV)
