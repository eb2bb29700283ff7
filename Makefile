.PHONY: fix check types pyright test docs docs-test figures

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

# The site, in docs/_build/html; without a single warning.
docs:
	python -m sphinx -M html docs docs/_build --fail-on-warning --keep-going --quiet -E -a

docs-test:
	pytest -m 'docs or browser' tests/docs

# The pictures of the pages; those with a photograph need scikit-image.
figures:
	for script in docs/figures/[!_]*.py; do python $$script || exit 1; done
