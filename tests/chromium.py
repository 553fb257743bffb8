"""A page in headless Chromium, driven by the DevTools protocol over a WebSocket."""

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import requests
import websocket

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # CI and containers run as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
    "--force-color-profile=srgb",
)
WAIT = 60  # seconds for an answer, on a machine that does other work


class Page:
    """One tab; errors, console messages and requests are collected while it is used."""

    def __init__(self, socket: websocket.WebSocket) -> None:
        self._socket = socket
        self._numbers = count(1)
        self.events: list[dict[str, Any]] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            if "method" in message:
                self.events.append(message)

    def run(self, script: str) -> Any:
        """Return the value of an expression, which may be a promise."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def open(self, path: Path, fragment: str = "") -> None:
        """Open a file, and wait until its script has run."""
        self.call("Page.navigate", url=f"{path.as_uri()}{fragment}")
        self.until("document.readyState === 'complete' && document.body.dataset.ready === '1'")

    def until(self, condition: str) -> None:
        """Wait until an expression is true in the page."""
        end = time.monotonic() + WAIT
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < end, f"{condition}: not within {WAIT} s"
            time.sleep(0.005)

    def size(self, width: int, height: int, dark: bool = False, touch: bool = False) -> None:
        """Emulate a screen of a size, and its preferred colour scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=touch,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, whole: bool = False) -> bytes:
        """Return a PNG of the visible part, or of the whole page."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        return base64.b64decode(data)

    def mouse(self, kind: str, x: float, y: float) -> None:
        """Send a mouse event: mouseMoved, mousePressed or mouseReleased, with the left button."""
        button = "none" if kind == "mouseMoved" else "left"
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=1)

    def key(self, name: str) -> None:
        """Press and release a key."""
        codes = {"ArrowLeft": 37, "ArrowRight": 39, "PageUp": 33, "Home": 36, "End": 35}
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=name,
                code=name,
                windowsVirtualKeyCode=codes[name],
            )

    def complaints(self) -> list[str]:
        """Return what the page logged as an error or a warning, and what it threw."""
        found = []
        for event in self.events:
            kind, details = event["method"], event["params"]
            if kind == "Runtime.exceptionThrown":
                found.append(str(details["exceptionDetails"]))
            if kind == "Runtime.consoleAPICalled" and details["type"] in ("error", "warning"):
                found.append(str(details["args"]))
            if kind == "Log.entryAdded" and details["entry"]["level"] in ("error", "warning"):
                found.append(details["entry"]["text"])
        return found

    def requests(self) -> set[str]:
        """Return the schemes of all that was requested."""
        sent = (e["params"] for e in self.events if e["method"] == "Network.requestWillBeSent")
        return {one["request"]["url"].partition(":")[0] for one in sent}


def require() -> str:
    """Return the browser's path; without one skip the test, or fail it in CI."""
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    if os.environ.get("CI") or os.environ.get("PCSR_REQUIRE_SHARED") == "1":
        pytest.fail("the explorer's tests need Chromium: apt-get install chromium")
    pytest.skip("no Chromium: apt-get install chromium")


@contextmanager
def page(folder: Path) -> Iterator[Page]:
    """Start a browser with a fresh profile in a folder, and yield its page."""
    command = [require(), *OPTIONS, f"--user-data-dir={folder}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = _port(folder / "DevToolsActivePort")
        tabs = requests.get(f"http://127.0.0.1:{port}/json/list", timeout=WAIT).json()
        address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
        with closing(websocket.create_connection(address, timeout=WAIT)) as socket:
            yield Page(socket)
    finally:
        process.terminate()
        process.wait(timeout=WAIT)


def _port(file: Path) -> int:
    """Return the port that the browser says it listens on, once it does."""
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        if file.exists() and (lines := file.read_text(encoding="ascii").split()):
            return int(lines[0])
        time.sleep(0.05)
    raise TimeoutError(f"{file}: Chromium did not start within {WAIT} s")
