"""What matters of the web pages that Google Drive sends in place of a file."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from html.parser import HTMLParser

__all__ = ["Page"]


@dataclass
class Page:
    """What matters of a web page: its title, Drive's form and Drive's refusal."""

    title: str = ""
    action: str | None = None  # of the form; None where there is no form
    method: str = "GET"
    fields: dict[str, str] = field(default_factory=dict)
    refusal: str = ""  # text of Drive's own error caption
    automated: bool = False  # Google takes the caller for a machine

    @classmethod
    def parse(cls, html: bytes) -> Page:
        text = html.decode("utf-8", "replace")
        reader = _PageReader()
        with contextlib.suppress(AssertionError, ValueError):  # some nonsense stops the parser
            reader.feed(text)
        page = reader.page
        page.title = " ".join(page.title.split())
        page.refusal = " ".join(page.refusal.split())
        page.automated = "automated queries" in text or "/sorry/" in (page.action or "")
        return page


class _PageReader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page()
        self.inside: str | None = None  # the tag whose text is being collected
        self.in_form = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        if tag == "title" or "uc-error-" in values.get("class", ""):
            self.inside = tag
        elif tag == "form" and values.get("id") == "download-form":
            self.in_form = True
            self.page.action = values.get("action", "")
            self.page.method = values.get("method", "get").upper()
        elif tag == "input" and self.in_form and values.get("name"):
            self.page.fields[values["name"]] = values.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        if tag == self.inside:
            self.inside = None
        if tag == "form":
            self.in_form = False

    def handle_data(self, data: str) -> None:
        if self.inside == "title":
            self.page.title += data
        elif self.inside is not None:
            self.page.refusal += data + " "
