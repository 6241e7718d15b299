"""Opens pages in a real browser without a window, wide and narrow, light and dark, and says what is wrong with them.

    python tools/browse.py build/site [results/demo.html …]    folders (all their pages) and pages

Wrong is: an error in the console, a page wider than its window, a picture that does not load, a formula that is not
drawn, a link to a place of the page that is not there. Needs Chromium (or Chrome) and its driver, as system packages;
without them it says so, and ends with 0.
"""

import shutil
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

WIDTHS = (1280, 800, 360)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Widths in CSS pixels; half a pixel of rounding is no overflow. Formulas are counted where they should be drawn.
LOOK = """
return {
    "overflow": document.documentElement.scrollWidth - document.documentElement.clientWidth,
    "pictures": [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src.slice(0, 80)),
    "anchors": [...document.links].filter(a => a.hash.length > 1 && a.pathname === location.pathname
      && a.origin === location.origin && !document.getElementById(decodeURIComponent(a.hash.slice(1)))
      && !document.getElementsByName(decodeURIComponent(a.hash.slice(1))).length).map(a => a.hash),
    "formulas": [...document.querySelectorAll("math")].filter(m => !m.getBoundingClientRect().height).length,
    "raw": (document.querySelector("article, main, body").innerText.match(/\\\\\\[|\\$\\$/g) || []).length,
}
"""


class Quiet(SimpleHTTPRequestHandler):
    """Serves files without a word."""

    def log_message(self, format, *args):
        """Nothing."""


def pages_of(argument: str) -> tuple[Path, list[str]]:
    """The folder to serve, and the addresses of its pages in it; of a file that page alone."""
    path = Path(argument).resolve()
    root = path.parent if path.is_file() else path
    pages = [path] if path.is_file() else sorted(path.rglob("*.html"))
    return root, [page.relative_to(root).as_posix() for page in pages]


def faults(browser: webdriver.Chrome, address: str) -> Iterator[str]:
    """What is wrong with a page."""
    for width in WIDTHS:
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        browser.get(address)
        seen = browser.execute_script(LOOK)
        if seen["overflow"] > 0:
            yield f"at {width} pixels {seen['overflow']} wider than the window"
        yield from (f"picture that does not load: {source}" for source in seen["pictures"])
        yield from (f"link to a place that is not there: {anchor}" for anchor in seen["anchors"])
        if seen["formulas"] or seen["raw"]:
            yield f"{seen['formulas'] + seen['raw']} formulas that are not drawn"
        for entry in browser.get_log("browser"):
            if entry["level"] == "SEVERE":
                yield f"console: {entry['message']}"


def main(arguments: list[str]) -> int:
    """1 if a page has a fault, 2 if there is no page."""
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if not binary or not driver:
        print("SKIPPED: no Chromium with its driver here (Debian's packages: chromium, chromium-driver).")
        return 0
    folders = [pages_of(argument) for argument in arguments]
    if not all(pages for _, pages in folders) or not folders:
        print(f"error: no pages in {arguments}; build them first (make docs, make demo).", file=sys.stderr)
        return 2
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    wrong = 0
    browser = webdriver.Chrome(options=options, service=Service(driver))
    try:
        for root, pages in folders:
            server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root)))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            for page in pages:
                for fault in dict.fromkeys(faults(browser, f"http://127.0.0.1:{server.server_port}/{page}")):
                    print(f"{page}: {fault}")
                    wrong += 1
            server.shutdown()
    finally:
        browser.quit()
    print(f"{sum(len(pages) for _, pages in folders)} pages at {len(WIDTHS)} widths: {wrong} faults")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
