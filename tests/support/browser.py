"""A real browser for tests: headless Chromium, driven over its DevTools protocol.

    with Browser() as browser:
        page = browser.open("http://127.0.0.1:9900/")
        page.until("document.querySelectorAll('tr').length > 3")
        page.click("#button"); page.type("#field", "text"); page.press("Enter")
        page.evaluate("1 + 1"); page.screenshot(path)
        page.complaints                 # errors that the page logged or threw, requests that it was refused

Rules: nothing sleeps to hope; every wait has a limit; a profile of its own, no request of the browser's own; one
process group, which ends with the block. Where no Chromium is installed find_browser() is None: skip with SKIP.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from types import TracebackType
from typing import Any

START_S = 60.0
"""A cold start of Chromium on a starved machine."""

WAIT_S = 40.0

SKIP = "no Chromium here: apt-get install chromium"

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
]


def find_browser() -> str | None:
    """Path of a Chromium, or None."""
    return next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )


class Page:
    """One tab."""

    def __init__(self, url: str) -> None:
        from websockets.sync.client import connect

        self._connection = contextlib.ExitStack()
        self._socket = self._connection.enter_context(
            connect(url, max_size=None, open_timeout=WAIT_S, close_timeout=1, ping_interval=None, proxy=None)
        )
        self._ids = itertools.count(1)
        self.complaints: list[str] = []
        self.requested: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def close(self) -> None:
        """Forget the tab."""
        self._connection.close()

    def send(self, method: str, **parameters: Any) -> Any:
        """One command; its result. Events that come meanwhile are noted."""
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            told = json.loads(self._socket.recv(timeout=WAIT_S))
            if told.get("id") == number:
                assert "error" not in told, (method, told["error"])
                return told["result"]
            self._note(told)

    def _note(self, told: dict[str, Any]) -> None:
        method, about = told.get("method", ""), told.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(about["exceptionDetails"].get("exception", {}).get("description", about)))
        elif method == "Runtime.consoleAPICalled" and about["type"] == "error":
            self.complaints.append(str([one.get("value") for one in about["args"]]))
        elif method == "Log.entryAdded" and about["entry"]["level"] == "error":
            if about["entry"].get("url", "").endswith("/favicon.ico"):
                return  # the browser's own wish, where a page that is no HTML does not say
            self.complaints.append(f"{about['entry']['text']} {about['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.requested.append(about["request"]["url"])

    def goto(self, url: str) -> None:
        """Load a page; returns when its document is complete. What is noted is of this page from now on."""
        self.evaluate("window.name = 'left'")
        self.complaints.clear()
        self.requested.clear()
        self.send("Page.navigate", url=url)
        self.until(f"document.readyState === 'complete' && location.href.startsWith({json.dumps(url)})")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; promises are awaited."""
        told = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def until(self, expression: str, why: str = "") -> Any:
        """Wait for a JavaScript expression to be true; its value."""
        end = time.monotonic() + WAIT_S
        while True:
            found = self.evaluate(
                f"(() => {{ try {{ const found = {expression}; return found instanceof Node || found }} "
                "catch (_) { return null } })()"
            )
            if found:
                return found
            assert time.monotonic() < end, f"never: {why or expression}; {self.complaints}"
            time.sleep(0.02)

    def text(self, selector: str) -> str:
        """The visible text of the first element that matches."""
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText"))

    def click(self, selector: str) -> None:
        """A real click in the middle of an element, which must be visible there."""
        where = self.until(
            f"""(() => {{ const one = document.querySelector({json.dumps(selector)});
            one.scrollIntoView({{block: "center"}});
            const box = one.getBoundingClientRect(), x = box.x + box.width / 2, y = box.y + box.height / 2;
            return box.width && one.contains(document.elementFromPoint(x, y)) && {{x, y}} }})()""",
            f"{selector} can be clicked",
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **where)

    def type(self, selector: str, text: str) -> None:
        """Type into a field."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
        self.send("Input.insertText", text=text)

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press a key: "Enter", "Tab", "ArrowDown", or a character."""
        codes = {"Enter": 13, "Tab": 9, "Escape": 27, "ArrowDown": 40, "ArrowUp": 38, " ": 32}
        about: dict[str, Any] = {"key": key, "modifiers": 8 if shift else 0}
        about["windowsVirtualKeyCode"] = codes.get(key, ord(key.upper()) if len(key) == 1 else 0)
        text = {"Enter": "\r", " ": " "}.get(key, key if len(key) == 1 else "")
        self.send("Input.dispatchKeyEvent", type="keyDown", **about, **({"text": text} if text else {}))
        self.send("Input.dispatchKeyEvent", type="keyUp", **about)

    def resize(self, width: int, height: int, *, dark: bool = False, scale: float = 1) -> None:
        """Size of the view, and which colours it prefers."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False
        )
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[feature])

    def screenshot(self, path: os.PathLike[str] | str) -> None:
        """What is seen now, as PNG."""
        data = self.send("Page.captureScreenshot", format="png", optimizeForSpeed=False)["data"]
        pathlib.Path(path).write_bytes(base64.b64decode(data))


class Browser:
    """One Chromium."""

    def __enter__(self) -> Browser:
        program = find_browser()
        assert program is not None, SKIP
        self._profile = tempfile.TemporaryDirectory(prefix="fastroute-browser-", ignore_cleanup_errors=True)
        self._log = open(pathlib.Path(self._profile.name, "log"), "wb")
        self._process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={self._profile.name}/profile", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        self._pages: list[Page] = []
        try:
            self._port = self._wait_for_port()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _wait_for_port(self) -> int:
        said = pathlib.Path(self._profile.name, "profile", "DevToolsActivePort")
        end = time.monotonic() + START_S
        while not (said.exists() and "\n" in (text := said.read_text())):
            log = pathlib.Path(self._profile.name, "log").read_text(errors="replace")[-2000:]
            assert self._process.poll() is None, f"the browser ended: {log}"
            assert time.monotonic() < end, f"the browser does not start: {log}"
            time.sleep(0.02)
        return int(text.split()[0])

    def open(self, url: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> Page:
        """A new tab with this page."""
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/json/new?about:blank", method="PUT")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=WAIT_S) as answer:
            target = json.load(answer)
        page = Page(target["webSocketDebuggerUrl"])
        for older in self._pages:  # its tab asks on, but nobody listens
            older.send("Page.navigate", url="about:blank")
        self._pages.append(page)
        page.resize(width, height, dark=dark)
        page.goto(url)
        return page

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)
        for page in self._pages:
            with contextlib.suppress(Exception):
                page.close()
        self._log.close()
        self._profile.cleanup()
