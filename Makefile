.PHONY: lab setup test lint format

PYTHON ?= python3

lab:
	$(PYTHON) lab.py

setup test lint format:
	$(PYTHON) lab.py $@
