"""What Google Drive's answers mean, and where a download may go: decisions, no input or output.

Drive has no interface for anonymous downloads. A large file is guarded by a page with a form, and
refusals are pages too, so answers are distinguished by status, type, ids and classes, never by
wording, which is localised.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

from .page import Page

__all__ = ["Answer", "DriveFile", "Origin", "Request", "Version", "is_page", "judge"]

DRIVE = "https://drive.google.com"
HOSTS = ("drive.google.com", "docs.google.com", "drive.usercontent.google.com")
HOST_SUFFIX = ".googleusercontent.com"
SIGN_IN = "accounts.google.com"
REDIRECTS = (301, 302, 303, 307, 308)
BUSY = (408, 429, 500, 502, 503, 504)
LARGEST = 2 * 10**9  # bytes; eight times the largest published file
CHECKPOINT_MAGICS = (
    b"PK\x03\x04",
    bytes.fromhex("80028a0a6cfc9c46f9206aa85019"),  # what PyTorch < 1.6 wrote
)


@dataclass(frozen=True)
class DriveFile:
    """A file on Google Drive, the plain name it gets here, and its hash where that is known."""

    file_id: str
    filename: str
    sha256: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-]{8,128}", self.file_id, re.ASCII):
            raise ValueError(f"{self.file_id!r} is not the id of a file on Google Drive.")
        if not re.fullmatch(r"\w[\w.-]{0,120}", self.filename, re.ASCII):
            raise ValueError(f"{self.filename!r} is not a plain file name.")
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"sha256={self.sha256!r} is not 64 lower-case hexadecimal digits.")

    @property
    def browser_url(self) -> str:
        """The page from which a person can download the file."""
        return f"{DRIVE}/file/d/{self.file_id}/view"


@dataclass(frozen=True)
class Request:
    """One HTTP request; fields are the form to post, if any."""

    url: str
    method: str = "GET"
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Origin:
    """Where files come from: Drive's own hosts, or a mirror, which alone is trusted then."""

    base: str = DRIVE

    @classmethod
    def of(cls, url: str | None) -> Origin:
        """Drive, or the mirror at ``url``.

        Raises:
            ValueError: if the URL is none, or plain http to another machine.
        """
        if not url:
            return cls()
        try:
            parts = urlsplit(url)
            usable = parts.hostname and parts.scheme in ("http", "https") and not parts.query
        except ValueError:  # such as half of an IPv6 address
            usable = None
        if not usable:
            raise ValueError(f"PYCONV_DRIVE_URL={url!r} must look like https://mirror.example.org.")
        if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
            raise ValueError(f"PYCONV_DRIVE_URL={url!r} must be https, or http to this machine.")
        return cls(url.rstrip("/"))

    def start(self, file: DriveFile) -> Request:
        return Request(f"{self.base}/uc?{urlencode({'export': 'download', 'id': file.file_id})}")

    def allows(self, url: str) -> bool:
        """Whether a redirect or a form may lead there."""
        parts, base = urlsplit(url), urlsplit(self.base)
        if "\\" in parts.netloc:  # urlsplit reads over it, requests ends the host there
            return False
        if self.base != DRIVE:
            return (parts.scheme, parts.netloc) == (base.scheme, base.netloc)
        host = parts.hostname or ""
        known = host in HOSTS or host.endswith(HOST_SUFFIX)
        return known and parts.scheme == "https" and parts.netloc in (host, f"{host}:443")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class Version:
    """What tells one content of a file from another; each as far as the server declares it."""

    size: int | None = None  # bytes
    crc32c: str | None = None  # base64 of the big-endian checksum
    etag: str | None = None
    last_modified: str | None = None

    @classmethod
    def of(cls, headers: Mapping[str, str], size: int | None) -> Version:
        etag = headers.get("ETag")
        return cls(
            size=size,
            crc32c=_crc32c(headers.get("X-Goog-Hash", "")),
            etag=None if etag is None or etag.startswith("W/") else etag,
            last_modified=headers.get("Last-Modified"),
        )

    @property
    def validator(self) -> str | None:
        """What ``If-Range`` compares."""
        return self.etag or self.last_modified

    def contradicts(self, other: Version) -> bool:
        """Whether the two cannot be of the same content."""
        pairs = (
            (self.size, other.size),
            (self.crc32c, other.crc32c),
            (self.etag, other.etag),
            (self.last_modified, other.last_modified),
        )
        return any(a is not None and b is not None and a != b for a, b in pairs)

    def shares_validator(self, other: Version) -> bool:
        """Whether both declare the same validator."""
        return (self.etag is not None and self.etag == other.etag) or (
            self.last_modified is not None and self.last_modified == other.last_modified
        )

    def resumable(self, file: DriveFile) -> bool:
        """Whether a rest could be proven to be of the same content, by validator or at the end."""
        proof = self.validator or self.crc32c or file.sha256
        return self.size is not None and proof is not None


def _crc32c(header: str) -> str | None:
    found = re.search(r"crc32c=([A-Za-z0-9+/]+={0,2})", header)
    try:
        return found[1] if found and len(base64.b64decode(found[1])) == 4 else None
    except binascii.Error:
        return None


@dataclass(frozen=True)
class Answer:
    """One HTTP answer without its body, but with the page where the body is one."""

    status: int
    url: str
    headers: Mapping[str, str]  # looked up without regard to case
    page: Page | None = None


@dataclass(frozen=True)
class Follow:
    """Another request has to be made."""

    request: Request
    confirms: bool  # whether it submits Drive's form


@dataclass(frozen=True)
class Body:
    """The bytes of the file follow, from ``offset`` on."""

    offset: int
    length: int | None  # of what follows
    version: Version


@dataclass(frozen=True)
class Retry:
    """It may work later; ``restart`` where what has arrived so far is of no use."""

    reason: str
    wait: float | None = None  # seconds that the server asks for
    restart: bool = False


@dataclass(frozen=True)
class Refuse:
    """It will not work."""

    reason: str


Verdict = Follow | Body | Retry | Refuse


def is_page(headers: Mapping[str, str]) -> bool:
    """Whether the body is declared as a web page."""
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return kind in ("text/html", "application/xhtml+xml")


def judge(
    answer: Answer, file: DriveFile, origin: Origin, have: Version, offset: int, now: datetime
) -> Verdict:
    """Decide what an answer to a request for the file means.

    Args:
        answer: What came.
        file: What was asked for.
        origin: Where requests may go.
        have: The version of which ``offset`` bytes are here already.
        offset: Where the request asked to go on; 0 if it asked for the whole file.
        now: To what a date in ``Retry-After`` is compared.
    """
    status, headers, page = answer.status, answer.headers, answer.page
    if status in REDIRECTS:
        return _redirect(answer, file, origin)
    if page is not None and (page.refusal or page.automated):
        return _refusal(page, headers, now)
    if status in BUSY or status > 504:
        reason = "too many requests" if status == 429 else f"an error of its own ({status})"
        return Retry(f"the server answers with {reason}", _wait(headers, now))
    if status in (401, 403):
        return Refuse(f"The file is private or blocked for this address (status {status}).")
    if status in (404, 410):
        who = "Drive" if origin.base == DRIVE else origin.base
        return Refuse(f"{who} has no file with the id {file.file_id} (status {status}).")
    if status == 416:
        return Retry("the server's file ends before what is here already", 0, restart=True)
    if status not in (200, 206):
        return Refuse(f"The server answered with status {status}, which means nothing here.")
    if page is not None:
        return _form(page, answer.url, file, origin)
    if headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        return Refuse("The server sends the file compressed, though asked not to.")
    return _rest(headers, file, have, offset) if status == 206 else _whole(headers, file)


def _redirect(answer: Answer, file: DriveFile, origin: Origin) -> Verdict:
    target = _resolve(answer.url, answer.headers.get("Location", ""))
    parts = urlsplit(target)
    if parts.hostname == SIGN_IN or "ServiceLogin" in parts.path:
        return Refuse("The file is private: Google asks for a sign-in.")
    if "/sorry/" in parts.path:
        return Refuse(AUTOMATED)
    if not origin.allows(target):
        return Refuse(f"The server redirects to {_where(target)}, which is not trusted.")
    return Follow(Request(target), confirms=False)


AUTOMATED = (
    "Google blocks this address for a while: it takes the requests from here for automated ones. "
    "Wait some hours, or use another network."
)


def _refusal(page: Page, headers: Mapping[str, str], now: datetime) -> Verdict:
    if not page.refusal:
        wait = _wait(headers, now)
        return Refuse(AUTOMATED) if wait is None else Retry(AUTOMATED, wait)
    return Refuse(
        f'Drive refuses the file, as it does when its quota of downloads is used up: "{page.title}:'
        f' {page.refusal}" Trying again soon does not help; a day later often does.'
    )


def _form(page: Page, url: str, file: DriveFile, origin: Origin) -> Verdict:
    if page.action is None:
        return Refuse(f'A web page came instead of the file, titled "{page.title[:200]}".')
    target = _resolve(url, page.action)
    if not origin.allows(target):
        return Refuse(f"Drive's form leads to {_where(target)}, which is not trusted.")
    parts = urlsplit(target)
    fields = dict(parse_qsl(parts.query)) | page.fields
    named = [value for name, value in parse_qsl(parts.query) if name == "id"]
    for file_id in (*named, fields.get("id", "no id")):
        if file_id != file.file_id:
            return Refuse(f"Drive's form is for another file ({file_id!r}).")
    if page.method == "POST":
        return Follow(Request(target, "POST", page.fields), confirms=True)
    return Follow(Request(urlunsplit(parts._replace(query=urlencode(fields)))), confirms=True)


def _whole(headers: Mapping[str, str], file: DriveFile) -> Verdict:
    # http.client reads chunks for this word alone; after any other the end of the body is no proof
    chunked = headers.get("Transfer-Encoding", "").lower() == "chunked"
    declared = None if chunked else headers.get("Content-Length")
    if declared is not None and (
        not declared.isdecimal() or len(declared) > 20 or not 0 < int(declared) <= LARGEST
    ):
        return Refuse(f"The server declares an impossible length ({declared[:40]} bytes).")
    size = None if declared is None else int(declared)
    version = Version.of(headers, size)
    if size is None and not chunked and version.crc32c is None and file.sha256 is None:
        return Refuse("The server declares no length, so a file cut short would not be noticed.")
    return Body(0, size, version)


def _rest(headers: Mapping[str, str], file: DriveFile, have: Version, offset: int) -> Verdict:
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", headers.get("Content-Range", "").strip())
    if found is None:
        return Retry("the server sends a piece without saying which", 0, restart=True)
    start, end, size = (int(number[:20]) for number in found.groups())
    version = Version.of(headers, size)
    proven = have.shares_validator(version) or have.crc32c or file.sha256
    if start != offset or not start <= end < size or have.contradicts(version) or not proven:
        return Retry("the server's file is not the one of which a piece is here", 0, restart=True)
    return Body(offset, end - start + 1, have)


def _wait(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds that ``Retry-After`` asks for, given as a number or a date."""
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value[:9])
    try:
        then = parsedate_to_datetime(value)
    except ValueError:
        return None
    if then.tzinfo is None:
        then = then.replace(tzinfo=timezone.utc)
    return max(0.0, (then - now).total_seconds())


def _resolve(url: str, link: str) -> str:
    """The address a link leads to; about:invalid where it is none."""
    try:
        return urlunsplit(urlsplit(urljoin(url, link)))
    except ValueError:
        return "about:invalid"


def _where(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
