"""A headless Chromium in a network namespace, driven over the WebDriver protocol (https://www.w3.org/TR/webdriver2/).

    with browser(node.namespace, tmp_path) as page:
        page.open("http://127.0.0.1:2402/")
        page.wait("return document.title.startsWith('✓')")

Programs: ``chromedriver`` and ``chromium``. Both run in the namespace, as the page's server does.
"""

import base64
import contextlib
import http.client
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyflanneld.lab import topology
from pyflanneld.lab.run import LabError, until

PORT = 9515
ANSWER_S = 30.0
QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip


class Browser:
    """One session of one browser."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._session = ""

    def answers(self) -> bool:
        """Return whether the driver answers."""
        try:
            return isinstance(self.call("GET", "/status"), dict)
        except OSError:
            return False

    def begin(self, profile: Path) -> None:
        """Start the browser with *profile*, a new directory."""
        options = {"args": [*QUIET, f"--user-data-dir={profile}"]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self._session = self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Send one command; return its value. Raises ``RuntimeError`` with the driver's message."""
        connection = http.client.HTTPConnection("127.0.0.1", PORT)
        connection.sock = topology.connect_namespaces(self._namespace, "127.0.0.1", PORT, ANSWER_S)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            value = json.loads(answer.read())["value"]
        finally:
            connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: {value['error']}: {value['message'][:300]}")
        return value

    def command(self, method: str, path: str, body: object = None) -> Any:
        """Send one command of the session."""
        return self.call(method, f"/session/{self._session}{path}", body)

    def open(self, url: str) -> None:
        self.command("POST", "/url", {"url": url})

    def run(self, script: str, *args: object) -> Any:
        """Run JavaScript in the page; return what it returns."""
        return self.command("POST", "/execute/sync", {"script": script, "args": args})

    def wait(self, script: str, what: str, timeout_s: float = 10.0) -> None:
        """Wait until the script returns something true."""
        until(lambda: bool(self.run(script)), what, timeout_s)

    def text(self, selector: str) -> str:
        """Return the visible text of the first element that matches; empty when there is none."""
        return str(self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def devtools(self, command: str, **params: object) -> Any:
        """Send a command of the DevTools protocol."""
        return self.command("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def scheme(self, name: str) -> None:
        """Prefer ``"dark"`` or ``"light"``."""
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.devtools("Emulation.setEmulatedMedia", features=features)

    def size(self, width: int, height: int, *, scale: float = 1.0) -> None:
        """Set the window's size in pixels; a narrow one is that of a phone."""
        phone = width < 600
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )

    def picture(self) -> bytes:
        """Return the window as a PNG."""
        return base64.b64decode(self.command("GET", "/screenshot"))

    def complaints(self) -> list[str]:
        """Return the errors and warnings of the page's console since the last call."""
        entries = self.command("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] in {"SEVERE", "WARNING"}]

    def has_dialog(self) -> bool:
        """Return whether the page has opened a dialog."""
        try:
            self.command("GET", "/alert/text")
        except RuntimeError as error:
            if "no such alert" in str(error):
                return False
            raise
        return True


@contextlib.contextmanager
def browser(namespace: str, folder: Path) -> Iterator[Browser]:
    """Run a browser in the namespace for the length of the block; its files go into *folder*."""
    home = folder / "browser"
    home.mkdir(parents=True)
    command = ["ip", "netns", "exec", namespace, "chromedriver", f"--port={PORT}", f"--log-path={home / 'driver.log'}"]
    environ = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    driver = subprocess.Popen(command, env=environ, start_new_session=True, **quiet)
    made = Browser(namespace)
    try:
        until(made.answers, "chromedriver answers", 20.0)
        made.begin(home / "profile")
        yield made
    finally:
        with contextlib.suppress(OSError, RuntimeError, LabError, http.client.HTTPException):
            made.command("DELETE", "")
        with contextlib.suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)  # its own session: the browser's processes are in it
        driver.wait()
