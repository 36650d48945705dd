"""A real Chromium, driven through chromedriver's HTTP interface: a page is opened, clicked and read."""

import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.running import wait_for

ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--window-size=1200,2000",
]  # fmt: skip
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the name that the WebDriver standard gives to a reference


def find_browser() -> tuple[str, str]:
    """Return chromium and chromedriver; skip, or fail where RETORT_REQUIRE_CHROMIUM=1, when they are absent."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        message = "NOT CHECKED: chromium is not here (Debian: apt-get install chromium chromium-driver)"
        if os.environ.get("RETORT_REQUIRE_CHROMIUM") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return chromium, driver


class Browser:
    """One window. Use it as a context manager."""

    def __enter__(self) -> "Browser":
        with ExitStack() as stack:
            folder = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="retort-", ignore_cleanup_errors=True))
            )
            chromium, driver = find_browser()
            self._client = stack.enter_context(httpx.Client(timeout=60, trust_env=False))
            self._client.base_url = f"http://127.0.0.1:{self._start(driver, folder / 'log', stack)}"
            options = {"binary": chromium, "args": [*ARGUMENTS, f"--user-data-dir={folder}/profile"]}
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
            answer = self._client.post("/session", json={"capabilities": {"alwaysMatch": wanted}})
            assert answer.is_success, answer.text
            self._session = f"/session/{answer.json()['value']['sessionId']}"
            stack.callback(self._client.delete, self._session)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @staticmethod
    def _start(driver: str, log_path: Path, stack: ExitStack) -> int:
        """Start chromedriver until the stack ends, and return the port that it took."""
        with log_path.open("wb") as log:
            process = subprocess.Popen([driver, "--port=0"], stdout=log, stderr=log)
        stack.callback(process.wait, 20)
        stack.callback(process.terminate)
        return int(wait_for(lambda: re.search(r"successfully on port (\d+)", log_path.read_text()))[1])

    def open(self, url: str) -> None:
        """Go to a page."""
        self._call("/url", url=url)

    def count(self, css: str) -> int:
        """Return how many elements there are."""
        return len(self._call("/elements", using="css selector", value=css))

    def click(self, css: str) -> None:
        """Click the first such element once it is there."""
        element = wait_for(lambda: self._call("/elements", using="css selector", value=css))[0][_ELEMENT]
        self._call(f"/element/{element}/click")

    def type(self, css: str, text: str) -> None:
        """Type into the first such element once it is there."""
        element = wait_for(lambda: self._call("/elements", using="css selector", value=css))[0][_ELEMENT]
        self._call(f"/element/{element}/value", text=text)

    def text(self, css: str) -> str:
        """Return the text of the first such element once it is there."""
        wait_for(lambda: self.count(css))
        return self._call("/execute/sync", script="return document.querySelector(arguments[0]).innerText", args=[css])

    def html(self) -> str:
        """Return the page as it is now."""
        return self._call("/execute/sync", script="return document.documentElement.outerHTML", args=[])

    def run(self, body: str, *given: Any) -> Any:
        """Return what the body of an asynchronous function returns in the page; it finds what is given in `given`."""
        script = f"const [given, done] = arguments; (async () => {{ {body} }})().then((value) => done({{ value }}),"
        script += "(error) => done({ error: { code: error.code ?? null, message: error.message } }))"
        return self._call("/execute/async", script=script, args=[list(given)])

    def resize(self, width: int, height: int) -> None:
        """Make the window so many pixels large, be it as narrow as a telephone."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("/goog/cdp/execute", cmd="Emulation.setDeviceMetricsOverride", params=metrics)

    def like(self, scheme: str) -> None:
        """Prefer light or dark, as an operating system says it."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._call("/goog/cdp/execute", cmd="Emulation.setEmulatedMedia", params={"features": features})

    def screenshot(self) -> bytes:
        """Return what the window shows, as PNG."""
        answer = self._client.get(self._session + "/screenshot")
        assert answer.is_success, answer.text
        return base64.b64decode(answer.json()["value"])

    def requested(self) -> list[str]:
        """Return the URLs that pages asked for since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self._call("/se/log", type="performance")]
        sent = [each["params"] for each in messages if each["method"] == "Network.requestWillBeSent"]
        return [each["request"]["url"] for each in sent]

    def complaints(self) -> list[str]:
        """Return what the console says since the last call."""
        return [entry["message"] for entry in self._call("/se/log", type="browser")]

    def _call(self, path: str, **body: Any) -> Any:
        answer = self._client.post(self._session + path, json=body)
        assert answer.is_success, answer.text
        return answer.json()["value"]
