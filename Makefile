# Two commands to start: `make demo` and `make test`. Everything is installed into .venv.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint fuzz clean check-lmms-eval

demo: $(VENV)/demo.stamp
	$(VENV)/bin/ov-encoder demo --out demo

test: $(VENV)/test.stamp
	$(VENV)/bin/python -m pytest -n 2

lint: $(VENV)/dev.stamp
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# libFuzzer with address and undefined-behaviour sanitizers over both bitstream readers; the corpus is kept.
CLANG ?= clang
CSRC := src/ov_encoder/codec/bitstream/csrc
fuzz: $(VENV)/test.stamp
	mkdir -p fuzz-corpus fuzz-seeds
	$(VENV)/bin/python fuzz/seeds.py fuzz-seeds
	$(CLANG) -std=c11 -g -O2 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -I$(CSRC) \
		$(CSRC)/*.c fuzz/ovb_fuzz.c -o fuzz-seeds.bin
	./fuzz-seeds.bin -max_len=1200 -timeout=20 -runs=10000000 fuzz-corpus fuzz-seeds

# The adapter's contract with lmms-eval, in an environment of its own (see tests/lmm/check_lmms_eval.py).
check-lmms-eval:
	$(PYTHON) -m venv .venv-lmms-eval
	.venv-lmms-eval/bin/python -m pip install --quiet -c constraints.txt -e '.[lmm]' pytest requests tqdm pandas httpx
	.venv-lmms-eval/bin/python -m pip install --quiet --no-deps -r tests/lmm/lmms_eval_requirements.txt
	.venv-lmms-eval/bin/python -m pytest tests/lmm/check_lmms_eval.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# One stamp per extra: reinstalled only when the requirements change.
$(VENV)/%.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[$*]'
	@touch $@

clean:
	rm -rf $(VENV) demo build dist fuzz-seeds.bin src/*.egg-info
