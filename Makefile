# make demo: set up, train on the built-in data, show the COCO table and pictures.  make test: set up, run the tests.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test slow lint clean

.venv/installed: requirements.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 10), "Python >= 3.10 is needed: make demo PYTHON=python3.12"'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

demo: .venv/installed
	$(BIN)/python train.py --name demo --exist-ok
	$(BIN)/python val.py --weights runs/train/demo/weights/best.pt --task test --name demo --exist-ok
	$(BIN)/python detect.py --weights runs/train/demo/weights/best.pt --source datasets/shapes/test/images --name demo --exist-ok

test: .venv/installed
	$(BIN)/python -m pytest -n 2

slow: .venv/installed
	$(BIN)/python -m pytest -n 2 -m slow

lint: .venv/installed
	$(BIN)/ruff check .

clean:
	rm -rf .venv runs datasets
