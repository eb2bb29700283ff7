"""The Hub's part in uploads and downloads, on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

Commits = list[dict[str, bytes]]  # what each brought to the one repository: files by their names


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    commits: Commits

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        here = f"http://{self.headers['Host']}/me/flowers"
        if self.path == "/api/repos/create":
            assert json.loads(body)["name"] == "flowers"
            self._answer(200, {"url": here, "name": "me/flowers"})
        elif self.path.startswith("/api/models/me/flowers/preupload/"):
            names = [file["path"] for file in json.loads(body)["files"]]
            # All of it comes within the commit, however large.
            files = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
            self._answer(200, {"files": files})
        elif self.path.startswith("/api/models/me/flowers/commit/"):
            entries = [json.loads(line) for line in body.splitlines()]
            files = [entry["value"] for entry in entries if entry["key"] == "file"]
            self.commits.append({f["path"]: base64.b64decode(f["content"]) for f in files})
            self._answer(200, {"commitUrl": f"{here}/commit/{self._id()}", "commitOid": self._id()})
        elif self.path == "/api/validate-yaml":  # of the model card
            self._answer(200, {"errors": [], "warnings": []})
        else:
            self._answer(404, {})

    def do_GET(self) -> None:
        owner, name, *rest = unquote(self.path).strip("/").split("/")
        if (owner, name) == ("api", "models"):
            self._answer(200, {"id": "me/flowers", "sha": self._id()})
            return
        if (owner, name) != ("me", "flowers"):
            self._answer(404, {}, {"X-Error-Code": "RepoNotFound"})
            return
        found = [commit[rest[-1]] for commit in self.commits if rest[-1] in commit]
        if not found:
            self._answer(404, {}, {"X-Error-Code": "EntryNotFound"})
            return
        tag = hashlib.sha1(found[-1]).hexdigest()
        self._answer(200, found[-1], {"X-Repo-Commit": self._id(), "ETag": f'"{tag}"'})

    do_HEAD = do_GET  # noqa: N815

    def _id(self) -> str:
        return f"{len(self.commits):040x}"

    def _answer(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def serving() -> Iterator[tuple[str, Commits]]:
    """The address of a server with one repository, ``me/flowers``, and what is committed to it."""
    commits: Commits = []
    handler = type("Handler", (_Handler,), {"commits": commits})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", commits
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
