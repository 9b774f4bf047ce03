# Every target does its own set-up. GPU=1 takes the CUDA lock: make GPU=1 setup
SHELL := bash
FLAVOUR := $(if $(GPU),gpu,cpu)

# A run starts several processes that import the same large libraries: let them keep what they compile.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo pipeline test lint chaos

setup:
	@requirements/install.sh $(FLAVOUR)

# A new run directory each time: an existing run is never overwritten.
demo: setup
	.venv/bin/medgpt train configs/demo/grpo.yaml output_dir=runs/demo-$$(date +%Y%m%d-%H%M%S)

# make pipeline PT=texts/ SFT=dialogues.jsonl PREFERENCE=pairs.jsonl, or see docs/pipeline.md
pipeline: setup
	.venv/bin/medgpt train pipeline/pt 'data.train=[{path: $(PT)}]'
	.venv/bin/medgpt train pipeline/sft 'data.train=[{path: $(SFT)}]'
	.venv/bin/medgpt train pipeline/rm 'data.train=[{path: $(PREFERENCE)}]'
	.venv/bin/medgpt train pipeline/dpo 'data.train=[{path: $(PREFERENCE)}]'

# A file of tests at a time in each of JOBS processes.
test: setup
	.venv/bin/python -m pytest -n $(or $(JOBS),2) --dist loadfile --no-loadscope-reorder

# Kills processes of tiny runs at random for MINUTES, and compares them with one left in peace.
chaos: setup
	.venv/bin/python tests/chaos.py --minutes $(or $(MINUTES),60) --output benchmarks/results/chaos.md

lint: setup
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports
