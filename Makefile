.PHONY: fix check test

fix:
	ruff check --fix .
	ruff format .

check:
	ruff check .
	ruff format --check .
	mypy

test:
	pytest
