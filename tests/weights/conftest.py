"""Drive in place of the real one, for the tests of downloads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from drive_server import Drive
from fetching import CONTENT


@pytest.fixture
def drive(monkeypatch: pytest.MonkeyPatch) -> Iterator[Drive]:
    """A server with one file; no proxy and no wish to stay offline stands between."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "PYCONV_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    with Drive(CONTENT) as drive:
        monkeypatch.setenv("PYCONV_DRIVE_URL", drive.url)
        yield drive
