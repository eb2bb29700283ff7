.PHONY: fix check types test

fix:
	ruff format .
	ruff check --fix .

check:
	ruff check .
	ruff format --check .
	mypy

# What users' type checkers see, and the types on every claimed Python.
types:
	pyright --verifytypes pyconv --ignoreexternal
	python docs/snippets.py .mypy_cache/snippets
	pyright --project .mypy_cache/snippets
	for version in 3.10 3.11 3.12 3.13 3.14; do mypy --python-version $$version || exit 1; done

test:
	pytest
