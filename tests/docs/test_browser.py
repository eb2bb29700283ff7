"""The site in Chromium, on a phone and on a desk, light and dark, served over loopback."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser

PHONE, DESK = 390, 1440
TABLE = "#classification table.sortable"
# fmt: off
PAGES = [
    "index", "install", "gallery/index", "gallery/photograph", "gallery/finetune",
    "gallery/pyramids", "gallery/detector", "gallery/segmenter", "gallery/check_a_number", "models",
    "networks", "weights", "predict", "evaluation", "training", "segmentation", "viz",
    "migration", "ecosystem", "tools",
    "speed", "benchmarks", "benchmark-tables", "logbook", "pyramids", "faq", "search",
    "reference/index", "reference/networks", "reference/train", "reference/commands",
    "reference/files", "reference/segmentation", "changelog", "contributing", "adding", "releasing",
]
# fmt: on
# What is wider than the window and lies in no scroller of its own.
TOO_WIDE = """
const width = document.documentElement.clientWidth;
const scrolls = (e) => e && (["auto", "scroll"].includes(getComputedStyle(e).overflowX)
    || scrolls(e.parentElement));
return [...document.querySelectorAll("article *")].filter((e) =>
    e.getBoundingClientRect().right > width + 1 && !scrolls(e.parentElement) && !scrolls(e)
    && getComputedStyle(e).position !== "absolute").map((e) => e.outerHTML.slice(0, 120));
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None: ...


class Browser:
    """Chromium on the pages of the site."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver, self.url = driver, url

    def look(self, page: str, width: int = DESK, theme: str = "light") -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width == PHONE}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
        self.driver.get(f"{self.url}/{page}.html")

    def all(self, selector: str) -> list[Any]:
        found: list[Any] = self.driver.find_elements("css selector", selector)
        return found

    def one(self, selector: str) -> Any:
        return self.all(selector)[0]

    def follow(self, name: str) -> None:
        """Click on a page in the navigation."""
        found = self.all(".sidebar-tree a")
        link = next(a for a in found if a.get_attribute("textContent").strip() == name)
        self.script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", link)
        self.wait(lambda: self.script("return document.readyState") == "complete")
        link.click()

    def wait(self, condition: Any) -> Any:
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, 60).until(lambda _: condition())

    def script(self, text: str, *values: object) -> Any:
        return self.driver.execute_script(text, *values)


@pytest.fixture(scope="module")
def browser(site: Path) -> Iterator[Browser]:
    from selenium import webdriver

    handler = functools.partial(Quiet, directory=str(site))
    options = webdriver.ChromeOptions()
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{flag}")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        service = webdriver.ChromeService("/usr/bin/chromedriver")
        driver = webdriver.Chrome(options, service)
        url = f"http://127.0.0.1:{server.server_address[1]}"
        grant = {"origin": url, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
        driver.execute_cdp_cmd("Browser.grantPermissions", grant)
        yield Browser(driver, url)
        driver.quit()
        server.shutdown()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_nothing_is_wider_than_the_window(browser: Browser, width: int, theme: str) -> None:
    for page in PAGES:
        browser.look(page, width, theme)
        assert browser.script("return document.documentElement.scrollWidth") <= width, page
        assert browser.script(TOO_WIDE) == [], page


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_words_can_be_read(browser: Browser, theme: str) -> None:
    browser.look("index", theme=theme)
    colours = "const s = getComputedStyle(arguments[0]); return [s.color, s.backgroundColor]"
    text, paper = browser.script(colours, browser.one("body"))
    assert luminance(text) < luminance(paper) if theme == "light" else luminance(text) > 0.6
    loaded = browser.script("return [...document.images].map((i) => i.naturalWidth)")
    assert loaded and all(loaded)


def luminance(colour: str) -> float:
    numbers = colour.partition("(")[2].rstrip(")").split(",")[:3]
    return sum(map(float, numbers)) / 765


def test_the_navigation_leads_through_the_site(browser: Browser) -> None:
    browser.look("index")
    for name in ("Install", "Models", "Reference", "FAQ"):
        browser.follow(name)
        browser.wait(lambda name=name: browser.one("article h1").text.startswith(name))


def test_the_menu_opens_on_a_phone(browser: Browser) -> None:
    browser.look("index", PHONE)
    assert not browser.one(".sidebar-tree a").is_displayed() or left(browser) < 0
    browser.one(".mobile-header label.nav-overlay-icon, .mobile-header .nav-overlay-icon").click()
    browser.wait(lambda: left(browser) >= 0)
    browser.follow("FAQ")
    browser.wait(lambda: browser.one("article h1").text.startswith("FAQ"))


def left(browser: Browser) -> float:
    place: float = browser.script(
        "return document.querySelector('.sidebar-tree a').getBoundingClientRect().left"
    )
    return place


@pytest.mark.parametrize(
    ("words", "page"),
    [
        ("quota", "faq.html"),
        ("CheckpointError", "reference/weights.html"),
        ("CheckpointError", "faq.html"),
        ("PYCONV_OFFLINE", "reference/environment.html"),
    ],
)
def test_the_search_finds_the_page(browser: Browser, words: str, page: str) -> None:
    browser.look("index")
    browser.one(".sidebar-search").send_keys(words + "\n")

    def first() -> list[str]:
        return [a.get_attribute("href") for a in browser.all("#search-results li a")[:8]]

    browser.wait(lambda: any(f"/{page}" in link for link in first()))


def test_the_table_of_models_is_sorted_by_a_click(browser: Browser) -> None:
    browser.look("models")
    heads = [head.text for head in browser.all(f"{TABLE} th")]
    column = next(place for place, text in enumerate(heads) if text.startswith("params"))
    button = browser.all(f"{TABLE} th button")[column]

    def numbers() -> list[float]:
        rows = browser.all(f"{TABLE} tbody tr")
        return [float(row.find_elements("css selector", "td")[column].text) for row in rows]

    before = numbers()
    button.click()
    assert numbers() == sorted(before) != before
    button.click()
    assert numbers() == sorted(before, reverse=True)
    assert len(numbers()) > 14


def test_code_is_copied_without_prompts(browser: Browser) -> None:
    browser.look("weights")
    blocks = [block.text for block in browser.all(".highlight")]
    place = next(n for n, text in enumerate(blocks) if "pyconv-weights list" in text)
    button = browser.all(".highlight button.copybtn")[place]
    browser.script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    read = "setTimeout(() => navigator.clipboard.readText().then(arguments[0]), 300)"
    text = browser.driver.execute_async_script(read)
    assert text.startswith("pyconv-weights list")
    assert "$" not in text
