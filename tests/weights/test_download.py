"""What a server can do to a download: faults 1 to 33 and 47 to 50, played over real sockets."""

from __future__ import annotations

import hashlib
import logging
import socket
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from itertools import chain, repeat
from pathlib import Path

import pytest
from drive_server import (
    FILE_ID,
    QUOTA,
    SORRY,
    Drive,
    Exchange,
    cut,
    declare,
    form,
    page,
    redirect,
)
from fetching import (
    CONTENT,
    FILE,
    ONCE,
    OTHER,
    PART,
    QUICK,
    WHOLE,
    fails,
    left,
    resumed,
    start_worker,
    succeeds,
)

from pyconv.weights.drive import DownloadError, DriveFile, Settings, fetch, read_record
from pyconv.weights.drive.answers import Answer as DriveAnswer
from pyconv.weights.drive.answers import Origin, Retry, Version, judge
from pyconv.weights.drive.page import Page

UNDECLARED = {"X_Goog_Hash": None, "ETag": None, "Last_Modified": None}
PINNED = DriveFile(FILE_ID, "weights.pth", hashlib.sha256(CONTENT).hexdigest())


def test_fault_01_form_by_get(drive: Drive, tmp_path: Path) -> None:
    path = succeeds(drive, tmp_path, ONCE)
    record = read_record(path)
    assert record is not None
    assert record.checks == ("length", "crc32c")
    assert record.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert record.last_modified == drive.headers["Last-Modified"]
    assert record.file_id == FILE_ID


@pytest.mark.parametrize(
    ("changed", "last"),
    [
        ({"uuid": "u", "at": "A:1", "authuser": "4"}, "GET body"),
        ({"method": "POST"}, "POST body"),
        ({"action": "{url}/u/4/uc?export=download&authuser=0"}, "GET body"),
        ({"order": '<form method="{method}" action="{action}" id="download-form">'}, "GET body"),
    ],
    ids=["at", "post", "amp", "order"],
)
def test_fault_02_form_variants(
    drive: Drive, tmp_path: Path, changed: dict[str, str], last: str
) -> None:
    changed = {name: value.replace("{url}", drive.url) for name, value in changed.items()}
    drive.pages = iter([form(**changed)])
    succeeds(drive, tmp_path, ["GET start", "GET page", last])


def test_fault_03_page_again_after_confirm(drive: Drive, tmp_path: Path) -> None:
    drive.pages = iter([form(confirm="t")])  # a form without uuid leads to the page again
    succeeds(drive, tmp_path, ["GET start", "GET page", "GET page", "GET body"])


def test_fault_04_form_for_ever(drive: Drive, tmp_path: Path) -> None:
    drive.pages = repeat(form(confirm="t"))
    fails(drive, tmp_path, ["GET start"] + ["GET page"] * 3, "again and again")


@pytest.mark.parametrize("target", ["http://localhost:1/x", "https://evil.example/x", "http://["])
def test_fault_05_redirect_to_other_host(drive: Drive, tmp_path: Path, target: str) -> None:
    drive.starts = iter([redirect(target)])
    fails(drive, tmp_path, ["GET start"], "not trusted")


def test_fault_05_form_to_other_host(drive: Drive, tmp_path: Path) -> None:
    drive.pages = iter([form(action="https://evil.example/download")])
    fails(drive, tmp_path, ["GET start", "GET page"], "https://evil.example", "not trusted")


def test_fault_05_form_of_other_file(drive: Drive, tmp_path: Path) -> None:
    drive.pages = iter([form(id="anotherFile00", uuid="u")])
    fails(drive, tmp_path, ["GET start", "GET page"], "for another file", "anotherFile00")


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://drive.google.com/uc", True),
        ("https://drive.usercontent.google.com/download", True),
        ("https://doc-0c-2k-docs.googleusercontent.com/docs", True),
        ("https://drive.google.com:443/uc", True),
        ("http://drive.google.com/uc", False),
        ("https://drive.google.com.evil.example/uc", False),
        ("https://evil.example/drive.google.com", False),
        ("https://user@drive.google.com/uc", False),
        ("https://drive.google.com:8443/uc", False),
        ("https://googleusercontent.com.evil.example/", False),
        (r"https://evil.example\.googleusercontent.com/", False),  # requests asks evil.example
        ("https://www.google.com/", False),
    ],
)
def test_fault_05_allowed_hosts(url: str, allowed: bool) -> None:
    assert Origin().allows(url) is allowed


@pytest.mark.parametrize("url", ["http://mirror.example", "ftp://mirror.example", "mirror", "//x"])
def test_mirror_must_be_safe(url: str) -> None:
    with pytest.raises(ValueError, match="PYCONV_DRIVE_URL"):
        Origin.of(url)


def test_mirror_alone_is_trusted() -> None:
    mirror = Origin.of("https://mirror.example/drive/")
    assert mirror.allows("https://mirror.example/file")
    assert not mirror.allows("https://drive.google.com/uc")
    assert not mirror.allows("http://mirror.example/file")


def test_fault_06_redirect_loop(drive: Drive, tmp_path: Path) -> None:
    drive.starts = repeat(redirect(f"{drive.url}/uc?id={FILE_ID}"))
    fails(drive, tmp_path, ["GET start"] * 11, "redirects more than 10 times")


@pytest.mark.parametrize("status", [200, 403])
@pytest.mark.parametrize("stage", ["starts", "pages", "bodies"])
def test_fault_07_quota_page(drive: Drive, tmp_path: Path, status: int, stage: str) -> None:
    setattr(drive, stage, repeat(page(QUOTA, status)))
    requests = ONCE[: ["starts", "pages", "bodies"].index(stage) + 1]
    fails(drive, tmp_path, requests, "quota", "Too many users", "browser")


def test_fault_08_sign_in(drive: Drive, tmp_path: Path) -> None:
    drive.starts = iter([redirect("https://accounts.google.com/ServiceLogin?continue=x")])
    fails(drive, tmp_path, ["GET start"], "private", "sign-in")


@pytest.mark.parametrize("status", [401, 403])
def test_fault_08_forbidden(drive: Drive, tmp_path: Path, status: int) -> None:
    drive.starts = iter([page("<title>Access denied</title>", status)])
    fails(drive, tmp_path, ["GET start"], "private")


def test_fault_09_missing(drive: Drive, tmp_path: Path) -> None:
    drive.file_id = "anotherFile00"
    fails(drive, tmp_path, ["GET page"], "no file with the id", FILE_ID, "404")


def test_fault_10_automated_queries(drive: Drive, tmp_path: Path) -> None:
    drive.starts = repeat(page(SORRY, 403))
    fails(drive, tmp_path, ["GET start"], "blocks this address")


def test_fault_10_redirect_to_sorry(drive: Drive, tmp_path: Path) -> None:
    drive.starts = repeat(redirect("https://www.google.com/sorry/index?continue=x"))
    fails(drive, tmp_path, ["GET start"], "blocks this address")


@pytest.mark.parametrize("after", ["0", "date", "999999"])
def test_fault_11_too_many_requests(drive: Drive, tmp_path: Path, after: str) -> None:
    if after == "date":
        after = format_datetime(datetime.now(timezone.utc) + timedelta(days=3), usegmt=True)
    drive.pages = iter([page("busy", 429, Retry_After=after)])
    succeeds(drive, tmp_path, ["GET start", "GET page", *ONCE])


@pytest.mark.parametrize(
    ("after", "asked", "waited"),
    [
        ("7", 7, 7),
        ("999999", 999999, 60),
        ("Mon, 23 Nov 2026 12:00:30 GMT", 30, 30),
        ("Mon, 23 Nov 2020 12:00:00 GMT", 0, 0),
        ("soon", None, 4),
    ],
)
def test_fault_11_wait(after: str, asked: float | None, waited: float) -> None:
    now = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)
    answer = DriveAnswer(429, "https://drive.google.com/uc", {"Retry-After": after})
    verdict = judge(answer, FILE, Origin(), Version(), 0, now)
    assert isinstance(verdict, Retry)
    assert verdict.wait == asked
    assert Settings().wait(2, verdict.wait) == waited


def test_waits_double_up_to_the_cap() -> None:
    assert [Settings().wait(n, None) for n in (0, 1, 2, 10)] == [1, 2, 4, 60]


@pytest.mark.parametrize("status", [500, 503])
def test_fault_12_error_then_fine(drive: Drive, tmp_path: Path, status: int) -> None:
    drive.starts = iter([page("oops", status)] * 2)
    succeeds(drive, tmp_path, ["GET start", "GET start", *ONCE])


def test_fault_13_error_for_ever(drive: Drive, tmp_path: Path) -> None:
    drive.bodies = repeat(page("oops", 500))
    fails(drive, tmp_path, ONCE * 4, "500", "Gave up after 4 attempts")


@pytest.mark.parametrize("stage", ["starts", "bodies"])
def test_fault_14_unknown_page(drive: Drive, tmp_path: Path, stage: str) -> None:
    setattr(drive, stage, repeat(page("<html><title>\n Wartungsarbeiten </title>Bald.</html>")))
    fails(drive, tmp_path, ONCE[: 1 if stage == "starts" else 3], 'titled "Wartungsarbeiten"')


def test_fault_15_page_as_attachment(drive: Drive, tmp_path: Path) -> None:
    drive.content = b"<!DOCTYPE html><html><title>Anmelden</title></html>"
    fails(drive, tmp_path, ONCE, "web page", 'titled "Anmelden"')


def test_fault_15_page_that_begins_letter_by_letter(drive: Drive, tmp_path: Path) -> None:
    drive.content = b"P<html><title>Anmelden</title></html>"
    drive.bodies = iter([lambda exchange: exchange.send_file(step=1, pause=0.002)])
    fails(drive, tmp_path, ONCE, "web page", 'titled "Anmelden"')


def test_a_connection_cut_in_the_handshake_is_tried_again(
    drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        cut = []

        def hang_up() -> None:
            for _ in range(QUICK.retries + 1):
                connection, _ = server.accept()
                connection.recv(100)
                connection.close()
                cut.append(connection)

        thread = threading.Thread(target=hang_up)
        thread.start()
        monkeypatch.setenv("PYCONV_DRIVE_URL", f"https://127.0.0.1:{server.getsockname()[1]}")
        fails(None, tmp_path, [], "connection", "Gave up after")
        thread.join()
    assert len(cut) == QUICK.retries + 1


def test_a_setting_that_forbids_every_request_is_one_error(
    drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYCONV_DRIVE_URL", "https://127.0.0.1:9")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
    fails(None, tmp_path, [], "The request cannot be made", "none.pem")


def test_fault_15_other_bytes(drive: Drive, tmp_path: Path) -> None:
    drive.content = b"GIF89a" * 100
    fails(drive, tmp_path, ONCE, "not a PyTorch checkpoint")


def test_fault_16_reset(drive: Drive, tmp_path: Path) -> None:
    # A reset may take with it what lies in the receiver's buffers, so where it goes on is open.
    drive.bodies = iter([cut(100_000, reset=True)])
    path = fetch(FILE, tmp_path, settings=QUICK, progress=False)
    assert path.read_bytes() == CONTENT
    assert len(drive.requests) == 6
    assert left(tmp_path) == WHOLE


def test_fault_16_reset_for_ever(drive: Drive, tmp_path: Path) -> None:
    drive.bodies = repeat(cut(0, reset=True))
    fails(drive, tmp_path, ONCE * 4, "Gave up after 4 attempts")


def test_fault_17_short_body(drive: Drive, tmp_path: Path) -> None:
    drive.bodies = iter([cut(100_000), cut(50_000)])
    succeeds(drive, tmp_path, ONCE + resumed(100_000) + resumed(150_000))


def test_fault_17_short_for_ever_is_continued_by_the_next_start(
    drive: Drive, tmp_path: Path
) -> None:
    drive.bodies = chain(repeat(cut(1000), 4))
    requests = ONCE + resumed(1000) + resumed(2000) + resumed(3000)
    fails(drive, tmp_path, requests, "it ended too early", leaves=PART)
    succeeds(drive, tmp_path, requests + resumed(4000))


def test_fault_18_stall(drive: Drive, tmp_path: Path) -> None:
    drive.bodies = iter([cut(100_000, stall=True)])
    patience = Settings(read_timeout=1, first_wait=0)
    succeeds(drive, tmp_path, ONCE + resumed(100_000), settings=patience)


def test_fault_19_trickle(drive: Drive, tmp_path: Path) -> None:
    drive.bodies = iter([cut(100_000, step=1, pause=0.02)])
    patience = Settings(window=0.3, slowest=10_000, first_wait=0)
    path = fetch(FILE, tmp_path, settings=patience, progress=False)
    assert path.read_bytes() == CONTENT
    assert len(drive.requests) == 6


def test_fault_20_no_length_nor_checksum(drive: Drive, tmp_path: Path) -> None:
    drive.bodies = repeat(declare({"after": 1000}, Content_Length=None, **UNDECLARED))
    fails(drive, tmp_path, ONCE, "no length")


def test_fault_20_no_length_but_checksum(drive: Drive, tmp_path: Path) -> None:
    drive.bodies = repeat(declare({"after": 1000}, Content_Length=None))
    fails(drive, tmp_path, ONCE * 2, "another checksum")


def test_fault_20_no_length_but_pinned(drive: Drive, tmp_path: Path) -> None:
    drive.bodies = iter([declare(Content_Length=None, **UNDECLARED)])
    succeeds(drive, tmp_path, ONCE, file=PINNED)


def test_fault_21_body_longer_than_its_length(drive: Drive, tmp_path: Path) -> None:
    drive.bodies = repeat(declare(Content_Length=str(len(CONTENT) - 1000)))
    fails(drive, tmp_path, ONCE * 2, "another checksum")


def test_fault_21_more_after_the_file(drive: Drive, tmp_path: Path) -> None:
    def act(exchange: Exchange) -> None:
        exchange.send_file()
        exchange.wfile.write(b"more")

    drive.bodies = iter([act])
    succeeds(drive, tmp_path, ONCE)


@pytest.mark.parametrize("length", ["-1", "1e6", "5, 5", "0", str(10**20), "9" * 5000])
def test_fault_22_impossible_length(drive: Drive, tmp_path: Path, length: str) -> None:
    drive.bodies = repeat(declare(Content_Length=length))
    fails(drive, tmp_path, ONCE, "impossible length", length[:40])


def test_fault_22_contradictory_lengths(drive: Drive, tmp_path: Path) -> None:
    drive.bodies = repeat(declare(Content_Length="5, 6"))
    fails(drive, tmp_path, ONCE, "length")


def test_fault_22_doubled_length(drive: Drive, tmp_path: Path) -> None:
    drive.bodies = repeat(declare(Content_Length=str(2 * len(CONTENT))))
    whole = len(CONTENT)
    requests = ONCE + resumed(whole) + ONCE + resumed(whole)
    fails(drive, tmp_path, requests, "Gave up after 4 attempts")


def test_fault_23_wrong_checksum_once(drive: Drive, tmp_path: Path) -> None:
    drive.bodies = iter([declare(X_Goog_Hash="crc32c=AAAAAA==")])
    succeeds(drive, tmp_path, ONCE * 2)


def test_fault_23_wrong_checksum_twice(drive: Drive, tmp_path: Path) -> None:
    drive.bodies = repeat(declare(X_Goog_Hash="crc32c=AAAAAA=="))
    fails(drive, tmp_path, ONCE * 2, "another checksum than the server declares")


@pytest.mark.parametrize("header", [None, "md5=1B2M2Y8AsgTpgAmY7PhCfg==", "crc32c=xx"])
def test_fault_24_no_checksum(drive: Drive, tmp_path: Path, header: str | None) -> None:
    drive.bodies = repeat(declare(X_Goog_Hash=header))
    record = read_record(succeeds(drive, tmp_path, ONCE))
    assert record is not None and record.checks == ("length",)


def test_fault_24_checksum_on_the_first_answer_only(drive: Drive, tmp_path: Path) -> None:
    drive.bodies = iter([cut(1000)])
    record = read_record(succeeds(drive, tmp_path, ONCE + resumed(1000)))
    assert record is not None and record.checks == ("length", "crc32c")


def test_fault_25_range_answered_with_the_whole(drive: Drive, tmp_path: Path) -> None:
    drive.bodies = iter([cut(1000), lambda exchange: exchange.send_file(ranges="never")])
    succeeds(drive, tmp_path, ONCE + resumed(1000))


@pytest.mark.parametrize(
    "declared",
    [
        f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}",
        f"bytes 1000-{len(CONTENT)}/{len(CONTENT) + 1}",
        f"bytes 1000-{len(CONTENT) + 5}/{len(CONTENT)}",
        "bytes 1000-",
        None,
    ],
)
def test_fault_26_wrong_range(drive: Drive, tmp_path: Path, declared: str | None) -> None:
    drive.bodies = iter([cut(1000), declare(Content_Range=declared)])
    succeeds(drive, tmp_path, ONCE + resumed(1000) + ONCE)


def test_fault_26_short_range(drive: Drive, tmp_path: Path) -> None:
    part = f"bytes 1000-1999/{len(CONTENT)}"
    short = declare({"after": 1000}, Content_Range=part, Content_Length="1000")
    drive.bodies = iter([cut(1000), short])
    succeeds(drive, tmp_path, ONCE + resumed(1000) + resumed(2000))


def test_fault_26_unasked_range(drive: Drive, tmp_path: Path) -> None:
    part = declare({"status": 206}, Content_Range=f"bytes 5-9/{len(CONTENT)}")
    drive.bodies = iter([part])
    succeeds(drive, tmp_path, ONCE * 2)


def test_fault_27_part_is_complete(drive: Drive, tmp_path: Path) -> None:
    def interrupt(path: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(FILE, tmp_path, interrupt, progress=False, settings=QUICK)
    assert left(tmp_path) == PART
    succeeds(drive, tmp_path, ONCE)  # nothing more had to be asked for


def test_fault_27_file_became_shorter(drive: Drive, tmp_path: Path) -> None:
    drive.bodies = iter([cut(200_000), lambda exchange: exchange.send_file(ranges="always")])
    fails(drive, tmp_path, ONCE, leaves=PART, settings=Settings(retries=0))
    drive.replace(CONTENT[:100_000])
    succeeds(drive, tmp_path, ONCE + resumed(200_000) + ONCE)


def test_fault_28_part_of_another_version(drive: Drive, tmp_path: Path) -> None:
    drive.bodies = iter([cut(1000)])
    fails(drive, tmp_path, ONCE, leaves=PART, settings=Settings(retries=0))
    drive.replace(OTHER)
    succeeds(drive, tmp_path, ONCE + resumed(1000))  # If-Range makes it the whole file


@pytest.mark.parametrize("content", [OTHER, OTHER[:-1]], ids=["etag", "size"])
def test_fault_28_server_ignores_the_validator(
    drive: Drive, tmp_path: Path, content: bytes
) -> None:
    drive.bodies = iter([cut(1000), lambda exchange: exchange.send_file(ranges="always")])
    fails(drive, tmp_path, ONCE, leaves=PART, settings=Settings(retries=0))
    drive.replace(content)
    succeeds(drive, tmp_path, ONCE + resumed(1000) + ONCE)


def test_fault_28_part_of_another_file(drive: Drive, tmp_path: Path) -> None:
    drive.bodies = iter([cut(1000)])
    fails(drive, tmp_path, ONCE, leaves=PART, settings=Settings(retries=0))
    drive.file_id, drive.content = "anotherFile00", OTHER
    drive.replace(OTHER)
    succeeds(drive, tmp_path, ONCE * 2, file=DriveFile("anotherFile00", "weights.pth"))


def test_fault_29_no_validators_but_checksum(drive: Drive, tmp_path: Path) -> None:
    del drive.headers["ETag"], drive.headers["Last-Modified"]
    drive.bodies = iter([cut(1000)])
    succeeds(drive, tmp_path, ONCE + resumed(1000))


def test_fault_29_no_validators_and_another_version(drive: Drive, tmp_path: Path) -> None:
    del drive.headers["ETag"], drive.headers["Last-Modified"]
    drive.bodies = iter([cut(1000)])
    fails(drive, tmp_path, ONCE, leaves=PART, settings=Settings(retries=0))
    drive.replace(OTHER)
    del drive.headers["ETag"], drive.headers["Last-Modified"]
    # Nothing tells the versions apart but the checksum at the end, which then starts it over.
    succeeds(drive, tmp_path, ONCE + resumed(1000) + ONCE)


def test_fault_29_nothing_to_compare(drive: Drive, tmp_path: Path) -> None:
    drive.headers = {}
    drive.bodies = iter([cut(1000)])
    succeeds(drive, tmp_path, ONCE * 2)


def test_fault_29_validator_on_the_first_answer_only(drive: Drive, tmp_path: Path) -> None:
    del drive.headers["X-Goog-Hash"]
    drive.bodies = iter([cut(1000), declare(**UNDECLARED)])
    succeeds(drive, tmp_path, ONCE + resumed(1000) + ONCE)


def test_fault_30_content_changes_between_retries(drive: Drive, tmp_path: Path) -> None:
    def act(exchange: Exchange) -> None:
        exchange.send_file(after=1000)
        drive.replace(OTHER)

    drive.bodies = iter([act])
    succeeds(drive, tmp_path, ONCE + resumed(1000))


def test_fault_31_gzip(drive: Drive, tmp_path: Path) -> None:
    drive.bodies = repeat(declare(Content_Encoding="gzip"))
    fails(drive, tmp_path, ONCE, "compressed")
    assert drive.seen_headers[0]["Accept-Encoding"] == "identity"


def test_fault_32_truncated_chunks(drive: Drive, tmp_path: Path) -> None:
    def act(exchange: Exchange) -> None:
        kind = {"Transfer-Encoding": "chunked", "Content-Type": "application/octet-stream"}
        exchange.answer(200, kind, b"3e8\r\n" + CONTENT[:1000] + b"\r\n3e8\r\n" + CONTENT[:10])

    drive.bodies = iter([act])
    succeeds(drive, tmp_path, ONCE * 2)


def test_fault_32_whole_chunks(drive: Drive, tmp_path: Path) -> None:
    def act(exchange: Exchange) -> None:
        kind = {"Transfer-Encoding": "chunked", "Content-Type": "application/octet-stream"}
        exchange.answer(200, kind, b"%x\r\n%b\r\n0\r\n\r\n" % (len(CONTENT), CONTENT))

    drive.bodies = iter([act])
    succeeds(drive, tmp_path, ONCE)


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a\\0b", "C:\\\\x"])
def test_fault_33_names_from_the_server(drive: Drive, tmp_path: Path, name: str) -> None:
    drive.bodies = iter([declare(Content_Disposition=f'attachment; filename="{name}"')])
    folder = tmp_path / "a" / "cache"
    succeeds(drive, folder, ONCE)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a\0b", "/x"])
def test_fault_33_names_from_the_caller(name: str) -> None:
    with pytest.raises(ValueError, match="plain file name"):
        DriveFile(FILE_ID, name)


def test_fault_47_proxy_is_used(
    drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", drive.url)
    monkeypatch.setenv("PYCONV_DRIVE_URL", "http://127.0.0.2:9")  # nobody is there
    drive.starts = iter([redirect(f"http://127.0.0.2:9/download?id={FILE_ID}")])
    drive.pages = iter([form(action="http://127.0.0.2:9/download")])
    succeeds(drive, tmp_path, ONCE)


def test_fault_47_no_proxy(drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{_closed_port()}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    succeeds(drive, tmp_path, ONCE)


def test_fault_47_dead_proxy(drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{_closed_port()}")
    fails(drive, tmp_path, [], "proxy", "NO_PROXY", "Gave up after 4 attempts")


SPY = """
import sys
def spy(event, arguments):
    if event.startswith("socket."):
        print(event, file=sys.stderr)
        raise SystemExit(3)
sys.addaudithook(spy)
"""


def test_fault_48_offline(drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYCONV_OFFLINE", "1")
    miss = start_worker(drive, tmp_path, SPY)
    _, complaint = miss.communicate(timeout=60)
    assert miss.returncode == 1
    assert f"{tmp_path / 'weights.pth'} is not there, and PYCONV_OFFLINE forbids" in complaint
    assert FILE.browser_url in complaint
    assert left(tmp_path) == []
    monkeypatch.setenv("PYCONV_OFFLINE", "0")
    succeeds(drive, tmp_path, ONCE)
    monkeypatch.setenv("PYCONV_OFFLINE", "1")
    hit = start_worker(drive, tmp_path, SPY)
    assert hit.communicate(timeout=60)[1] == ""
    assert hit.returncode == 0
    assert drive.requests == ONCE


def test_fault_48_the_spy_sees_sockets(drive: Drive, tmp_path: Path) -> None:
    worker = start_worker(drive, tmp_path, SPY)
    assert "socket." in worker.communicate(timeout=60)[1]
    assert worker.returncode == 3


def test_fault_49_connection_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HTTP_PROXY", raising=False)
    monkeypatch.delenv("http_proxy", raising=False)
    monkeypatch.setenv("PYCONV_DRIVE_URL", f"http://127.0.0.1:{_closed_port()}")
    fails(None, tmp_path, [], "No connection", "refused", "Gave up after 4 attempts")


def test_fault_49_no_such_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYCONV_DRIVE_URL", "https://drive.invalid")
    patience = Settings(retries=1, first_wait=0)
    fails(None, tmp_path, [], "No connection to https://drive.invalid", settings=patience)


def test_fault_50_mirror_with_a_wrong_file(drive: Drive, tmp_path: Path) -> None:
    drive.replace(OTHER)
    fails(drive, tmp_path, ONCE, "not the pinned one", str(PINNED.sha256), file=PINNED)


def test_retries_are_told(drive: Drive, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    drive.starts = iter([page("oops", 503)])
    with caplog.at_level(logging.WARNING, "pyconv.weights.drive"):
        succeeds(drive, tmp_path, ["GET start", *ONCE])
    assert "503" in caplog.text and "trying again" in caplog.text


def test_page_is_read_whatever_it_looks_like() -> None:
    assert Page.parse(b"<title>a<p class='uc-error-caption'>\xff<form id=download-form") is not None
    assert Page.parse(b"").title == ""


def _closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.parametrize("html", ["<![x[ y ]]>", f"<title>&#{'9' * 5000};</title>"])
def test_page_that_stops_the_parser(drive: Drive, tmp_path: Path, html: str) -> None:
    drive.pages = repeat(page(html))
    fails(drive, tmp_path, ["GET start", "GET page"], "A web page came instead of the file")


def chunks(coding: str, *parts: bytes) -> Callable[[Exchange], None]:
    """Send parts as they are, under a transfer coding."""
    kind = {"Content-Type": "application/octet-stream", "Transfer-Encoding": coding}
    return lambda exchange: exchange.answer(200, kind, b"".join(parts))


def test_fault_20_coding_that_shows_no_end(drive: Drive, tmp_path: Path) -> None:
    drive.bodies = repeat(chunks("gzip, chunked", CONTENT[:1000]))
    fails(drive, tmp_path, ONCE, "declares no length")


def test_fault_32_no_bytes_at_all(drive: Drive, tmp_path: Path) -> None:
    drive.bodies = repeat(chunks("chunked", b"0\r\n\r\n"))
    fails(drive, tmp_path, ONCE * 4, "The server sent nothing")


def test_fault_22_more_than_any_file(
    drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyconv.weights.drive.transfer.LARGEST", 100_000)
    size = f"{len(CONTENT):x}\r\n".encode()
    drive.bodies = repeat(chunks("chunked", size, CONTENT, b"\r\n0\r\n\r\n"))
    fails(drive, tmp_path, ONCE, "sends more than 100,000 bytes")


def test_fault_05_posted_form_of_other_file(drive: Drive, tmp_path: Path) -> None:
    drive.pages = repeat(form(action=f"{drive.url}/download?id=another", method="post"))
    fails(drive, tmp_path, ["GET start", "GET page"], "is for another file ('another')")


def test_failure_is_an_oserror() -> None:
    assert issubclass(DownloadError, OSError)
