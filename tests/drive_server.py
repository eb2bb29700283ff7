"""An imitation of Google Drive on loopback, over real sockets, that can play what goes wrong.

    with Drive(content) as drive:
        drive.bodies = iter([cut(after=1000)])   # then as usual

Without faults it behaves as Drive did in 2026: a redirect, a page with a form, the file. Each of
the three stages can be given an iterator of acts, one for each request that reaches it.

``python tests/drive_server.py FILE`` serves a file until it is stopped, and prints its address.
"""

from __future__ import annotations

import base64
import contextlib
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import google_crc32c

FILE_ID = "1ImitationOfAnIdOnGoogleDrive_-00"
UUID = "6b1f5e5c-0000-4000-8000-000000000000"

Act = Callable[["Exchange"], None]


def crc32c(content: bytes) -> str:
    """What Drive declares of a file."""
    return "crc32c=" + base64.b64encode(struct.pack(">I", google_crc32c.value(content))).decode()


class Drive:
    """The server; a context manager.

    Attributes:
        content: Bytes of the one file.
        headers: What is declared of the whole file, besides type and length.
        starts, pages, bodies: Acts for requests at the three stages, in place of the usual.
        requests: What was asked: ``"GET start"``, ``"GET page"``, ``"GET body 1000-"``, ...
    """

    def __init__(self, content: bytes, file_id: str = FILE_ID) -> None:
        self.content = content
        self.file_id = file_id
        self.headers: dict[str, str] = {
            "X-Goog-Hash": crc32c(content),
            "Last-Modified": "Wed, 10 Jun 2020 10:00:00 GMT",
            "ETag": '"one"',
        }
        self.starts: Iterator[Act] = iter(())
        self.pages: Iterator[Act] = iter(())
        self.bodies: Iterator[Act] = iter(())
        self.requests: list[str] = []
        self.seen_headers: list[Mapping[str, str]] = []
        self.stopping = threading.Event()  # lets an act wait without outliving the test
        self.lock = threading.Lock()

    def replace(self, content: bytes, etag: str = '"two"') -> None:
        """Upload another version of the file."""
        self.content = content
        self.headers |= {"X-Goog-Hash": crc32c(content), "ETag": etag}
        self.headers["Last-Modified"] = "Thu, 11 Jun 2020 10:00:00 GMT"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def count(self, stage: str) -> int:
        return sum(stage in request.split() for request in self.requests)

    def __enter__(self) -> Drive:
        handler = type("Handler", (Exchange,), {"drive": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stopping.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class Exchange(BaseHTTPRequestHandler):
    """One request and its answer."""

    protocol_version = "HTTP/1.1"
    drive: Drive

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        parts = urlsplit(self.path)  # with a host in front, where the server is used as a proxy
        self.fields = dict(parse_qsl(parts.query))
        self.fields |= dict(parse_qsl(self.rfile.read(length).decode()))
        stage, usual = self.stage(parts.path)
        wanted = self.headers.get("Range", "").removeprefix("bytes=")
        drive = self.drive
        with drive.lock:
            drive.requests.append(f"{self.command} {stage} {wanted}".strip())
            drive.seen_headers.append(self.headers)
            act = next(getattr(drive, {"body": "bodies"}.get(stage, f"{stage}s")), usual)
        self.close_connection = True
        with contextlib.suppress(OSError):  # the client may have gone
            act(self)

    do_POST = do_GET  # noqa: N815

    def stage(self, path: str) -> tuple[str, Act]:
        if self.fields.get("id") != self.drive.file_id:
            return "page", Exchange.missing
        if path.endswith("/uc") and "confirm" not in self.fields:
            return "start", lambda exchange: exchange.redirect(
                f"{exchange.drive.url}/download?id={exchange.fields['id']}&export=download"
            )
        if "uuid" in self.fields:
            return "body", Exchange.send_file
        return "page", Exchange.send_form

    def answer(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def redirect(self, url: str, status: int = 303) -> None:
        self.answer(status, {"Location": url, "Content-Length": "0"})

    def send_page(self, html: str, status: int = 200, **headers: str) -> None:
        body = html.encode()
        kind = {"Content-Type": "text/html; charset=utf-8", "Content-Length": str(len(body))}
        self.answer(status, kind | {k.replace("_", "-"): v for k, v in headers.items()}, body)

    def missing(self) -> None:
        self.send_page("<title>Error 404 (Not Found)!!1</title>", 404)

    def send_form(
        self,
        action: str | None = None,
        method: str = "get",
        order: str = '<form id="download-form" action="{action}" method="{method}">',
        **fields: str,
    ) -> None:
        """The page that warns of a file too large to scan, as captured in 2026."""
        action = escape(action or f"{self.drive.url}/download")
        given = {"id": self.fields["id"], "export": "download", "confirm": "t"}
        given |= fields or {"uuid": UUID}
        inputs = "".join(f'<input type="hidden" name="{k}" value="{v}">' for k, v in given.items())
        form = order.format(action=action, method=method)
        self.send_page(
            "<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head>"
            '<body><p class="uc-warning-caption">Google Drive can\'t scan this file for viruses.'
            f'</p>{form}<input type="submit" id="uc-download-link" value="Download anyway">'
            f"{inputs}</form></body></html>"
        )

    def send_file(
        self, *, declared: Mapping[str, str | None] = {}, ranges: str = "if valid", **how: Any
    ) -> None:
        """The file, or the rest that was asked for.

        ``declared`` replaces headers, None drops one; ``ranges`` are obeyed "if valid" by
        ``If-Range``, "always" or "never".
        """
        drive = self.drive
        content, status, start = drive.content, 200, 0
        headers: dict[str, str | None] = dict(drive.headers)
        valid = self.headers.get("If-Range") in (None, *drive.headers.values())
        if "Range" in self.headers and {"always": True, "never": False}.get(ranges, valid):
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.answer(416, {"Content-Range": f"bytes */{len(content)}"})
                return
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            headers["X-Goog-Hash"] = None  # Drive leaves it out there
        headers |= {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        headers["Content-Disposition"] = 'attachment; filename="weights.pth"'
        headers["Content-Length"] = str(len(content) - start)
        headers |= declared
        kept = {name: value for name, value in headers.items() if value is not None}
        self.answer(how.pop("status", status), kept)
        self.stream(memoryview(content)[start:], **how)

    def stream(
        self,
        body: bytes | memoryview,
        *,
        after: int | None = None,
        reset: bool = False,
        stall: bool = False,
        pause: float = 0,
        step: int = 1 << 20,
    ) -> None:
        """Send a body, up to ``after`` bytes; then close, reset the connection, or stall.

        With ``pause``, ``step`` bytes come at a time.
        """
        body = memoryview(body)[:after]
        while body and not self.drive.stopping.is_set():
            self.wfile.write(body[:step])
            body = body[step:]
            if pause:
                self.drive.stopping.wait(pause)
        if stall:
            self.drive.stopping.wait(60)
        if reset:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        pass


def cut(after: int, **how: Any) -> Act:
    """Send the file up to ``after`` bytes of what was asked for."""
    return lambda exchange: exchange.send_file(after=after, **how)


def declare(how: Mapping[str, Any] = {}, **headers: str | None) -> Act:
    """Send the file with other headers; ``_`` stands for ``-``, None leaves one out."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda exchange: exchange.send_file(declared=named, **how)


def page(html: str, status: int = 200, **headers: str) -> Act:
    """Send a web page."""
    return lambda exchange: exchange.send_page(html, status, **headers)


def redirect(url: str, status: int = 302) -> Act:
    return lambda exchange: exchange.redirect(url, status)


def form(**how: Any) -> Act:
    """Send the page with the form, changed."""
    return lambda exchange: exchange.send_form(**how)


QUOTA = (
    "<html><head><title>Google Drive - Quota exceeded</title></head><body>"
    '<p class="uc-error-caption">Sorry, you can\'t view or download this file at this time.</p>'
    '<p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.'
    " Please try accessing the file again later.</p></body></html>"
)
SORRY = (
    "<html><head><title>Sorry...</title></head><body><h1>We're sorry...</h1><p>... but your "
    "computer or network may be sending automated queries. To protect our users, we can't "
    "process your request right now.</p></body></html>"
)


if __name__ == "__main__":
    with Drive(Path(sys.argv[1]).read_bytes()) as served:
        sys.stdout.write(f"{served.url} {served.file_id}\n")
        sys.stdout.flush()
        while True:
            time.sleep(3600)
