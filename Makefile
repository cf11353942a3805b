.PHONY: lab setup test lint format site

PYTHON ?= python3

lab:
	$(PYTHON) lab.py

setup test lint format site:
	$(PYTHON) lab.py $@
