.PHONY: fix check test

fix:
	ruff format .
	ruff check --fix .

check:
	ruff check .
	ruff format --check .
	mypy

test:
	pytest
