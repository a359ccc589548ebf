"""A headless Chromium, driven over the DevTools protocol with a bare WebSocket."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.waiting import eventually_sync

__all__ = ["Browser", "Page", "find_chromium", "running_browser", "served"]

_ANSWER_WITHIN = 60.0
_ARGUMENTS = (
    "--headless",
    # Root has no sandbox, and it only ever sees our own page.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-extensions",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--no-default-browser-check",
    "--window-size=1280,800",
    "--remote-debugging-port=0",
)


def find_chromium() -> str | None:
    """Return the browser's command, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)


class _ModuleHandler(SimpleHTTPRequestHandler):
    """Serves files; the published modules import each other without `.js`."""

    def translate_path(self, path: str) -> str:
        found = super().translate_path(path)
        return found if Path(found).suffix else f"{found}.js"

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder's pages and JavaScript modules; yield their origin."""
    handler = partial(_ModuleHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_port}"
        finally:
            httpd.shutdown()
            thread.join()


@contextmanager
def running_browser(chromium: str) -> Iterator[Browser]:
    """Start a browser with a profile of its own."""
    # The last of its processes may still write when the first has ended.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [chromium, *_ARGUMENTS, f"--user-data-dir={profile}", "about:blank"],
            # It leaves things there too when it is killed.
            env={**os.environ, "TMPDIR": profile},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            port_file = Path(profile, "DevToolsActivePort")
            eventually_sync(lambda: port_file.exists() and "/" in port_file.read_text())
            port, path = port_file.read_text().split()
            yield Browser(f"ws://127.0.0.1:{port}{path}")
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class Browser:
    """A running browser.

    Args:
        devtools_url: where it listens.
    """

    def __init__(self, devtools_url: str) -> None:
        self._devtools_url = devtools_url

    @contextmanager
    def page(self, url: str) -> Iterator[Page]:
        """Open a page, and close it at the end."""
        with connect(self._devtools_url, proxy=None, max_size=None) as devtools:
            page = Page(devtools)
            page.call("Page.navigate", url=url)
            yield page
            page.call("Page.close")


class Page:
    """One page. Its events are looked at while one of its calls is answered."""

    def __init__(self, devtools: ClientConnection) -> None:
        self._devtools = devtools
        self._ids = itertools.count(1)
        self._session: dict[str, str] = {}
        self.complaints: list[str] = []
        """Uncaught exceptions, failed requests and what else its console calls an error."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol; return its result."""
        number = next(self._ids)
        request = {"id": number, "method": method, "params": parameters, **self._session}
        self._devtools.send(json.dumps(request))
        while True:
            message = json.loads(self._devtools.recv(_ANSWER_WITHIN))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, or of its promise."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str, *, within: float = 30) -> None:
        """Wait until a JavaScript expression is true, in JavaScript's sense."""
        eventually_sync(lambda: self.evaluate(f"Boolean({expression})"), within=within)

    def screenshot(self, path: Path) -> None:
        """Write what it looks like, as PNG."""
        image = self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(image["data"]))

    def _note(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(parameters["exceptionDetails"]))
            case "Log.entryAdded" if parameters["entry"]["level"] == "error":
                self.complaints.append(json.dumps(parameters["entry"]))
