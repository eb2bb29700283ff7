.PHONY: fix check types pyright test

fix:
	ruff format .
	ruff check --fix .

check:
	ruff check .
	ruff format --check .
	mypy

# The types on every claimed Python.
types:
	for version in 3.10 3.11 3.12 3.13 3.14; do mypy --python-version $$version || exit 1; done

# What the type checkers of users' editors see; pyright fetches itself with npm at the first call.
pyright:
	pyright --verifytypes pyconv --ignoreexternal
	python docs/snippets.py .mypy_cache/snippets
	pyright --project .mypy_cache/snippets

test:
	pytest -n 2
