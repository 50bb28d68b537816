"""A real browser, headless, spoken to over its debugging pipe: goes to pages, types, and is asked what it shows."""

import base64
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECONDS = 200.0


class Browser:
    """One tab. What its console said, and what it asked for from elsewhere, is kept."""

    def __init__(self, read: int, write: int) -> None:
        self._in, self._out = os.fdopen(read, "rb"), os.fdopen(write, "wb")
        self._number, self._left = 0, b""
        self.console: list[str] = []
        self.requests: list[str] = []
        target = self._ask("Target.createTarget", {"url": "about:blank"})["targetId"]
        attached = self._ask("Target.attachToTarget", {"targetId": target, "flatten": True})
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._ask(f"{domain}.enable", {})

    _session: str | None = None

    def goto(self, address: str) -> None:
        """Opens a page and waits for its script."""
        self._ask("Page.navigate", {"url": address})
        self.ready()

    def ready(self) -> None:
        """Waits until the page is there and its script has run."""
        self.until("document.readyState === 'complete' && document.documentElement.dataset.ready === 'yes'")

    def ask(self, script: str) -> Any:
        """What an expression of the page's says; a promise is waited for."""
        found = self._ask(
            "Runtime.evaluate", {"expression": script, "returnByValue": True, "awaitPromise": True, "userGesture": True}
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script: str, seconds: float = SECONDS) -> None:
        """Waits until the expression is true; a page that is being left is asked again."""
        ends = time.monotonic() + seconds
        while True:
            try:
                if self.ask(f"Boolean({script})"):
                    return
            except (AssertionError, RuntimeError):
                pass
            assert time.monotonic() < ends, f"waited for {script} at {self.ask('location.href')}"
            time.sleep(0.1)

    def press(self, key: str, times: int = 1, shift: bool = False) -> None:
        """A key, as from a keyboard."""
        codes = {"Tab": 9, "Enter": 13, " ": 32, "ArrowRight": 39}
        said: dict[str, Any] = {"key": key, "code": {" ": "Space"}.get(key, key), "windowsVirtualKeyCode": codes[key]}
        text = {"Enter": "\r", " ": " "}.get(key)
        for _ in range(times):
            down = {**said, "type": "keyDown", "modifiers": 8 * shift, **({"text": text} if text else {})}
            self._ask("Input.dispatchKeyEvent", down)
            self._ask("Input.dispatchKeyEvent", {**said, "type": "keyUp"})

    def tab_to(self, what: str, most: int = 150) -> None:
        """Tab until what has the focus says this, or has it as its name or label; the focus is seen on the way."""
        look = """(e => [[e.textContent.trim(), e.name, e.getAttribute("aria-label")],
            e === document.body || getComputedStyle(e).outlineStyle !== "none"])(document.activeElement)"""
        for _ in range(most):
            said, outlined = self.ask(look)
            assert outlined, f"nothing shows that {said} has the focus"
            if what in said:
                return
            self.press("Tab")
        raise AssertionError(f"no Tab leads to {what!r} at {self.ask('location.href')}")

    def type(self, text: str) -> None:
        self._ask("Input.insertText", {"text": text})

    def look(self, width: int, dark: bool = False) -> None:
        """The window's width and whether the system is dark."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self._ask("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", {"features": [scheme]})

    def picture(self, path: Path) -> None:
        """The whole page as PNG."""
        found = self._ask("Page.captureScreenshot", {"captureBeyondViewport": True})
        path.write_bytes(base64.b64decode(found["data"]))

    def _ask(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._out.write(json.dumps(message).encode() + b"\0")
        self._out.flush()
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                found: dict[str, Any] = answer["result"]
                return found
            self._hear(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            piece = self._in.raw.read(2**16)  # type: ignore[attr-defined]
            assert piece, "the browser has gone"
            self._left += piece
        line, self._left = self._left.split(b"\0", 1)
        found: dict[str, Any] = json.loads(line)
        return found

    def _hear(self, event: dict[str, Any]) -> None:
        said = event.get("params", {})
        match event.get("method"):
            case "Runtime.consoleAPICalled":
                self.console.append(str(said["args"]))
            case "Runtime.exceptionThrown":
                self.console.append(str(said["exceptionDetails"].get("exception", said)))
            case "Log.entryAdded":
                self.console.append(said["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requests.append(said["request"]["url"])


@contextmanager
def browser(chromium: str, folder: Path) -> Iterator[Browser]:
    """A browser with an empty profile in `folder`; it ends with the block."""
    there, back = os.pipe(), os.pipe()
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    options += "--disable-component-update --disable-sync --hide-scrollbars --remote-debugging-pipe"
    command = [chromium, *options.split(), f"--user-data-dir={folder / 'browser'}", "about:blank"]
    fed = ["bash", "-c", f'exec "$0" "$@" 3<&{there[0]} 4>&{back[1]}', *command]
    process = subprocess.Popen(fed, pass_fds=(there[0], back[1]), stderr=subprocess.DEVNULL)
    os.close(there[0]), os.close(back[1])
    try:
        yield Browser(back[0], there[1])
    finally:
        process.terminate()
        process.wait(20)
