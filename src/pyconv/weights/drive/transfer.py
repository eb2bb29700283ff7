"""One download: the loop that acts on what ``answers.py`` decides, until the file is published."""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import shutil
import ssl
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import NoReturn

import requests
from tqdm import tqdm
from urllib3.exceptions import HTTPError, IncompleteRead

from .answers import (
    CHECKPOINT_MAGICS,
    LARGEST,
    Answer,
    Body,
    Origin,
    Refuse,
    Request,
    Retry,
    Verdict,
    is_page,
    judge,
)
from .page import Page
from .partial import PartialFile
from .record import CHUNK, Record, Trust, read_record, record_path, today, write_record
from .target import Check, DownloadError, Settings, Target

__all__ = ["Transfer"]

logger: logging.Logger = logging.getLogger(__name__)

PAGE_LIMIT = 1 << 20  # bytes of a web page that are read
HEAD = 512  # bytes that distinguish a page from a checkpoint


class _AttemptError(Exception):
    """This attempt failed; another may not."""

    def __init__(self, reason: str, wait: float | None = None, restart: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.restart = wait, restart


class _Session(requests.Session):
    """Redirects are ours to judge; requests would read their bodies first, however long."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


@dataclass
class Transfer:
    """One download: attempts until the file is published or there is no hope."""

    target: Target
    origin: Origin
    partial: PartialFile
    check: Check | None
    progress: bool
    settings: Settings
    force: bool
    doubted: bool = False  # whether bytes that arrived whole were wrong before

    def run(self) -> None:
        reason = ""
        for attempt in range(self.settings.retries + 1):
            try:
                if not self.partial.complete:
                    self._attempt()
                return self._publish()
            except _AttemptError as failed:
                reason = str(failed)
                if failed.restart:
                    self.partial.discard()
                if attempt < self.settings.retries:
                    self._pause(reason, failed.wait, attempt)
        raise self.target.error(
            f"{reason[:1].upper()}{reason[1:]}. Gave up after {self.settings.retries + 1} attempts."
        )

    def _pause(self, reason: str, wanted: float | None, attempt: int) -> None:
        wait = self.settings.wait(attempt, wanted)
        logger.warning("%s: %s; trying again in %.0f s.", self.target.file.filename, reason, wait)
        time.sleep(wait)

    def _attempt(self) -> None:
        with _Session() as session:
            response, body = self._find(session)
            with contextlib.closing(response):
                self._receive(response, body)

    def _find(self, session: requests.Session) -> tuple[requests.Response, Body]:
        """Follow redirects and confirm until the bytes are there to be read."""
        request = self.origin.start(self.target.file)
        redirects = confirmations = 0
        while True:
            offset = self.partial.size if self.partial.continuable else 0
            with contextlib.ExitStack() as stack:
                response = self._send(session, request, offset)
                stack.enter_context(contextlib.closing(response))
                verdict = self._judge(response, offset)
                if isinstance(verdict, Body):
                    stack.pop_all()
                    return response, verdict
            if isinstance(verdict, Refuse):
                raise self.target.error(verdict.reason)
            if isinstance(verdict, Retry):
                raise _AttemptError(verdict.reason, verdict.wait, verdict.restart)
            redirects += not verdict.confirms
            confirmations += verdict.confirms
            if redirects > self.settings.redirects:
                raise self.target.error(f"The server redirects more than {redirects - 1} times.")
            if confirmations > self.settings.confirmations:
                raise self.target.error("Drive asks for its confirmation again and again.")
            request = verdict.request

    def _send(self, session: requests.Session, request: Request, offset: int) -> requests.Response:
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if self.partial.version.validator is not None:
                headers["If-Range"] = self.partial.version.validator
        try:
            return session.request(
                request.method,
                request.url,
                data=dict(request.fields) or None,
                headers=headers,
                timeout=(self.settings.connect_timeout, self.settings.read_timeout),
                allow_redirects=False,
                stream=True,
            )
        except requests.exceptions.InvalidHeader as error:
            raise self.target.error("The server contradicts itself about the length.") from error
        except requests.exceptions.ProxyError as error:
            raise _AttemptError(
                "the proxy cannot be reached; see HTTPS_PROXY and NO_PROXY"
            ) from error
        except requests.exceptions.SSLError as error:
            if _is_distrusted(error):
                raise self.target.error(f"The connection is not secure: {_root(error)}.") from error
            raise _AttemptError(f"the connection broke ({_root(error)})") from error
        except requests.exceptions.Timeout as error:
            raise _AttemptError("the server does not answer in time") from error
        except requests.RequestException as error:
            raise _AttemptError(f"no connection to {self.origin.base} ({_root(error)})") from error
        except (
            OSError,
            HTTPError,
        ) as error:  # not the network: a setting, or an impossible address
            raise self.target.error(f"The request cannot be made: {_root(error)}.") from error

    def _judge(self, response: requests.Response, offset: int) -> Verdict:
        page = None
        if is_page(response.headers):
            page = Page.parse(b"".join(self._chunks(response, PAGE_LIMIT)))
        answer = Answer(response.status_code, response.url, response.headers, page)
        now = datetime.now(timezone.utc)
        return judge(answer, self.target.file, self.origin, self.partial.version, offset, now)

    def _receive(self, response: requests.Response, body: Body) -> None:
        """Write what comes to the disk, in the order it arrives."""
        if body.offset:
            self.partial.resumed = True
        else:
            with self._writing():
                self.partial.begin(body.version)
        self._check_room(body)
        arrived = 0
        with tqdm(
            total=body.version.size,
            initial=body.offset,
            desc=self.target.file.filename,
            unit="B",
            unit_scale=True,
            disable=None if self.progress and sys.stderr else True,  # None: only on a terminal
        ) as bar:
            for chunk in _with_head(self._chunks(response)):
                if self.partial.size == 0:
                    self._check_head(chunk)
                with self._writing():
                    self.partial.write(chunk)
                arrived += len(chunk)
                bar.update(len(chunk))
                if self.partial.size > LARGEST:
                    self.partial.discard()
                    raise self.target.error(f"The server sends more than {LARGEST:,} bytes.")
        if self.partial.size == 0:
            raise _AttemptError("the server sent nothing")
        if body.length is not None and arrived < body.length:
            raise _AttemptError(f"the connection ended after {arrived:,} of {body.length:,} bytes")
        if body.version.size is not None and not self.partial.complete:
            raise _AttemptError("the server sent less than the rest", wait=0)

    def _chunks(self, response: requests.Response, limit: int | None = None) -> Iterator[bytes]:
        """The bytes of a body as they arrive, as long as they arrive fast enough."""
        began, arrived, total = time.monotonic(), 0, 0
        while limit is None or total < limit:
            try:
                # read() would wait until a whole chunk is there: too late to notice a trickle,
                # and what had arrived of it would be lost when the connection breaks.
                chunk = response.raw.read1(CHUNK, decode_content=False)
            except (HTTPError, OSError) as error:
                raise _AttemptError(f"the connection broke ({_root(error)})") from error
            if not chunk:
                return
            yield chunk
            arrived, total = arrived + len(chunk), total + len(chunk)
            elapsed = time.monotonic() - began
            if elapsed > self.settings.window:
                if arrived < self.settings.slowest * elapsed:
                    raise _AttemptError(f"only {arrived / elapsed:.0f} bytes per second arrive")
                began, arrived = time.monotonic(), 0

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Use the disk; what does not fit on it does not stay there."""
        try:
            with self.target.on_disk():
                yield
        except (DownloadError, FileNotFoundError):
            self.partial.discard()
            raise

    def _check_room(self, body: Body) -> None:
        folder = self.target.path.parent
        with self._writing():
            free = shutil.disk_usage(folder).free
            if body.length is not None and body.length > free:
                raise self.target.error(
                    f"{folder} has room for {free / 1e6:,.0f} MB and the file needs "
                    f"{body.length / 1e6:,.0f} MB. Make room, or set PYCONV_HOME."
                )

    def _check_head(self, head: bytes) -> None:
        """Refuse what is no checkpoint by its first bytes, before it is written."""
        if any(head.startswith(magic[: len(head)]) for magic in CHECKPOINT_MAGICS):
            return
        self.partial.discard()
        if b"<html" in head[:HEAD].lower() or b"<!doctype" in head[:HEAD].lower():
            title = Page.parse(head[:PAGE_LIMIT]).title[:200]
            raise self.target.error(f'A web page came instead of the file, titled "{title}".')
        raise self.target.error("What the server sends is not a PyTorch checkpoint.")

    def _publish(self) -> None:
        """Prove what has arrived and move it to its place."""
        with self._writing():
            status = self.partial.sync()
        self._check_digest()
        try:
            if self.check is not None:
                self.check(self.partial.place)
        except ValueError as error:
            problem = str(error).replace(str(self.partial.place), "the file")
            self._reject(f"What the server sent is refused: {problem}")
        with self._writing():
            record, old = self._new_record(status), read_record(self.target.path)
            if old is not None and old.sha256 != record.sha256:
                # Killed in between, the old file would be taken for a damaged new one.
                record_path(self.target.path).unlink()
                self.partial.publish()
                write_record(self.target.path, record)
            else:
                write_record(self.target.path, record)
                self.partial.publish()

    def _check_digest(self) -> None:
        digest, declared = self.partial.digest, self.partial.version.crc32c
        if declared not in (None, digest.crc32c):
            self._reject(
                "What arrived has another checksum than the server declares", doubtful=True
            )
        if problem := self.target.not_pinned(digest.sha256):
            self._reject(f"The server's file {problem}")
        with self.target.on_disk():
            record = read_record(self.target.path)
        same = record is not None and record.file_id == self.target.file.file_id
        bound = record is not None and same and record.trust != "user-supplied" and not self.force
        if record is not None and bound and record.sha256 != digest.sha256:
            self._reject(
                "The server's file is not the one trusted at first use: its SHA-256 was "
                f"{record.sha256} on {record.date} and is {digest.sha256}. If the authors replaced "
                "it, accept the new one with force=True, or pyconv-weights download --force"
            )

    def _reject(self, reason: str, doubtful: bool = False) -> NoReturn:
        """Throw away bytes that are wrong; once, start again if only their way may be to blame."""
        retry = (doubtful or self.partial.resumed) and not self.doubted
        self.partial.discard()
        if retry:
            self.doubted = True
            raise _AttemptError(reason[:1].lower() + reason[1:], wait=0, restart=True)
        raise self.target.error(reason.rstrip(".") + ".")

    def _new_record(self, status: os.stat_result) -> Record:
        version = self.partial.version
        named = {
            "length": version.size is not None,
            "crc32c": version.crc32c is not None,
            "sha256": self.target.file.sha256 is not None,
            "structure": self.check is not None,
        }
        checks = tuple(name for name, done in named.items() if done)
        trust: Trust = "trusted-on-first-use" if self.target.file.sha256 is None else "pinned"
        return Record(
            file_id=self.target.file.file_id,
            sha256=self.partial.digest.sha256,
            size=self.partial.size,
            mtime_ns=status.st_mtime_ns,
            crc32c=self.partial.digest.crc32c,
            checks=checks,
            last_modified=version.last_modified,
            date=today(),
            trust=trust,
        )


def _with_head(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes; the first piece, if there are so many, is long enough to tell what it is."""
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= HEAD:
            break
    if head:
        yield head
    yield from chunks


def _causes(error: BaseException) -> Iterator[BaseException]:
    below: BaseException | None = error
    while below is not None:
        yield below
        below = below.__cause__ or below.__context__


def _is_distrusted(error: BaseException) -> bool:
    """Whether the other side showed a wrong certificate, and did not merely hang up."""
    # urllib3 keeps the reason of its error in an attribute, not in the chain.
    reasons = (getattr(each.args[0], "reason", None) for each in _causes(error) if each.args)
    found = [*_causes(error), *reasons]
    return any(isinstance(each, ssl.SSLCertVerificationError) for each in found)


def _root(error: BaseException) -> str:
    """What lies under an error of the network, in the words of the system."""
    *_, error = _causes(error)
    if isinstance(error, (IncompleteRead, http.client.IncompleteRead)):
        return "it ended too early"
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
