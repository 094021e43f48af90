"""A headless Chromium, driven over its DevTools pipe: no package, no port, no driver program.

Messages are JSON ended by a zero byte; the browser reads them from file descriptor 3 and writes them to 4.
"""

import json
import os
import re
import select
import shutil
import subprocess
import time

FLAGS = [
    "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--no-first-run", "--disable-extensions", "--disable-background-networking", "--hide-scrollbars",
    "--disable-component-update", "--force-color-profile=srgb", "--allow-file-access-from-files",
]  # fmt: skip


def find_browser() -> str | None:
    """Chromium's program on this machine, or None."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One browser with one tab. `open` loads a page; `events` holds what the tab reported since."""

    def __init__(self, program: str, profile: str) -> None:
        self.events: list[dict] = []
        self._number, self._buffer = 0, b""
        theirs, (self._out, self._in) = zip(os.pipe(), reversed(os.pipe()))
        pipe = f'exec "$@" 3<&{theirs[0]} 4>&{theirs[1]}'
        quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        command = ["bash", "-c", pipe, "bash", program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(command, pass_fds=theirs, **quiet)
        for end in theirs:
            os.close(end)
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, seconds: float = 30, **parameters: object) -> dict:
        """Send a command to the tab and return its result; events that arrive meanwhile are kept."""
        return self._call(method, self._session, seconds, **parameters)

    def _call(self, method: str, session: str | None = None, seconds: float = 30, **parameters: object) -> dict:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive(time.monotonic() + seconds)
            if answer is None:
                raise TimeoutError(f"no answer to {method}")
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def _receive(self, deadline: float) -> dict | None:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0, deadline - time.monotonic()))
            chunk = os.read(self._in, 1 << 20) if ready else b""
            if not chunk:
                return None
            self._buffer += chunk
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def listen(self, seconds: float) -> None:
        """Collect events for that long."""
        deadline = time.monotonic() + seconds
        while (event := self._receive(deadline)) is not None:
            self.events.append(event)

    def screen(self, width: int, height: int = 900, dark: bool = False) -> None:
        """Set the window's size in CSS pixels, and the colour scheme that pages are told."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, address: str, seconds: float = 20) -> None:
        """Load a page and wait until it is complete, its equations included."""
        self.events.clear()
        self.loader = self.call("Page.navigate", url=address).get("loaderId")
        deadline = time.monotonic() + seconds
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            if (event := self._receive(deadline)) is None:
                raise TimeoutError(f"{address} did not load in {seconds} s")
            self.events.append(event)
        self.evaluate("window.MathJax?.startup?.promise")

    def evaluate(self, expression: str, seconds: float = 30) -> object:
        """The value of a JavaScript expression in the page; promises are waited for, for that long."""
        options = {"returnByValue": True, "awaitPromise": True}
        deadline = time.monotonic() + seconds
        while True:
            try:
                answer = self.call("Runtime.evaluate", seconds, expression=expression, **options)
                break
            except RuntimeError as error:  # a page that leads on to another takes its questions with it: ask the other
                if not re.search("navigated|context", str(error)) or time.monotonic() > deadline:
                    raise
                self.listen(0.1)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"].get("exception", {}).get("description", expression))
        return answer["result"].get("value")

    def requests(self) -> list[str]:
        """Every address that the page asked for; what the page before it still fetches is not counted."""
        sent = [e["params"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [one["request"]["url"] for one in sent if one["loaderId"] == self.loader]

    def errors(self) -> list[str]:
        """Uncaught exceptions and console errors since the page was opened."""
        found = []
        for event in self.events:
            match event:
                case {"method": "Runtime.exceptionThrown", "params": {"exceptionDetails": details}}:
                    found.append(details.get("exception", {}).get("description", details.get("text", "")))
                case {"method": "Log.entryAdded", "params": {"entry": {"level": "error", "text": text}}}:
                    found.append(text)
                case {"method": "Runtime.consoleAPICalled", "params": {"type": "error", "args": arguments}}:
                    found.append(" ".join(str(a.get("value", a.get("description", ""))) for a in arguments))
        return found

    def close(self) -> None:
        try:
            self._call("Browser.close")
        except (OSError, TimeoutError):
            self._process.kill()
        self._process.wait()
        os.close(self._out)
        os.close(self._in)
