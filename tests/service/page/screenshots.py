"""Take the pictures of the README: python -m tests.service.page.screenshots --bundle DIR [--out DIR]

--bundle: of the demo, .demo/run/bundle after make demo. Each picture is below 150 KB.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.service.browser import Browser
from tests.service.running import Running, wait_for

OUT = Path(__file__).parent / "picture"
SIZE = (1200, 760)
MOST_BYTES = 150_000
_SAMPLES = 6


def take(bundle: Path, out: Path) -> None:
    """Serve a bundle, open the page, and write a picture of some screens."""
    out.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="retort-") as data,
        Running(bundle, Path(data), budget_ms="50") as service,
        Browser() as browser,
    ):
        browser.resize(*SIZE)
        browser.open(f"{service.url}/#try")
        for n in range(1, 3):
            browser.click(f".pick:nth-child({n + 2})")
            wait_for(lambda n=n: browser.count(".who .chip") == n)
        _write(browser, out / "try.png", "#list .card")
        browser.click("nav a[href='#why']")
        _write(browser, out / "why.png", "#reasons .card")
        browser.like("dark")
        browser.click("nav a[href='#health']")
        wait_for(lambda: _ask(service) >= _SAMPLES, timeout_s=20 * _SAMPLES)
        _write(browser, out / "health.png", ".plot canvas", timeout_s=30)


def _ask(service: Running) -> int:
    """Ask for some lists; return how many samples of the hour there are."""
    for n in range(1, 8):
        service.recommend(history=[f"{n:05}"], k=10)
    return len(service.client.get("/metrics/hour").json()["samples"])


def _write(browser: Browser, path: Path, css: str, timeout_s: float = 20) -> None:
    wait_for(lambda: browser.count(css) >= 4, timeout_s=timeout_s)
    time.sleep(1)  # so that nothing is half drawn
    picture = browser.screenshot()
    if len(picture) > MOST_BYTES:
        sys.exit(f"{path.name}: {len(picture)} bytes; {MOST_BYTES} at most")
    path.write_bytes(picture)
    print(f"{path}: {len(picture)} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    take(given.bundle, given.out)
