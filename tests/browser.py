"""Drives a real Chromium, without a window, over its DevTools protocol: what a page shows, and pictures of it."""

import base64
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import pytest
import websocket

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_browser = pytest.mark.skipif(
    BROWSER is None,
    reason="no chromium, chromium-browser or google-chrome on the PATH to open pages with",
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
]
LOAD_ALL_IMAGES = """(async () => {
  const images = [...document.images];
  for (const image of images) image.loading = "eager";
  await Promise.all(images.map(image => image.decode().catch(() => null)));
  return images.map(image => ({source: image.src, label: image.alt, width: image.naturalWidth}));
})()"""


class Browser:
    """A headless browser with one tab; a context manager."""

    def __enter__(self) -> "Browser":
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        command = [BROWSER, *FLAGS, f"--user-data-dir={self.profile.name}", "about:blank"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        port_file = Path(self.profile.name) / "DevToolsActivePort"
        deadline = time.monotonic() + 60
        while not (port_file.exists() and port_file.read_text().count("\n")):
            assert self.process.poll() is None, (
                f"{BROWSER} ended with status {self.process.returncode}"
            )
            assert time.monotonic() < deadline, (
                f"{BROWSER} did not open its DevTools port within 60 s"
            )
            time.sleep(0.05)
        port = port_file.read_text().split()[0]
        with build_opener(ProxyHandler({})).open(
            f"http://127.0.0.1:{port}/json/list", timeout=10
        ) as reply:
            tab = next(target for target in json.load(reply) if target["type"] == "page")
        self.socket = websocket.create_connection(tab["webSocketDebuggerUrl"], timeout=60)
        self.numbers = itertools.count(1)
        self.command("Page.enable")
        self.command("Runtime.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.profile.cleanup()

    def command(self, method: str, until: str | None = None, **parameters: object) -> dict:
        """Send one DevTools command and return its result, after the event `until` if one is named."""
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        result, happened = None, until is None
        while result is None or not happened:
            message = json.loads(self.socket.recv())
            happened |= until is not None and message.get("method") == until
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                result = message["result"]
        return result

    def open(self, page: Path | str) -> None:
        """Load a file or an address."""
        address = page if isinstance(page, str) else page.resolve().as_uri()
        result = self.command("Page.navigate", until="Page.loadEventFired", url=address)
        assert "errorText" not in result, f"{address}: {result['errorText']}"

    def evaluate(self, expression: str) -> object:
        """Return the value of a JavaScript expression in the page; a promise is waited for."""
        answer = self.command(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def images(self) -> list[dict]:
        """Load all images of the page, lazy ones too: [{"source", "label", "width"}], width 0 for a broken one."""
        return self.evaluate(LOAD_ALL_IMAGES)

    def screenshot(
        self, path: Path, width: int = 1200, height: int = 900, dark: bool = False
    ) -> None:
        """Write a PNG of the top of the page."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])
        path.write_bytes(
            base64.b64decode(self.command("Page.captureScreenshot", format="png")["data"])
        )
