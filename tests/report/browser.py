"""A page opened in a real browser, in frames of several widths, and asked what it shows and how it answers."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

WIDTHS = (390, 1280)
# A window of headless Chromium is at least some 500 px wide; a frame in it can be as narrow as a phone.
FRAMES = """<!DOCTYPE html><body style="margin:0">FRAMES<pre id="seen"></pre><script>
const box = element => {
  const {left, right, width, height} = element.getBoundingClientRect();
  return [left, right, width, height];
};
// The browser's clock is virtual: while the page waits idly it jumps to its end, and all is over. So waiting is work.
const until = async condition => {
  for (let i = 0; i < 1000000 && !condition(); i++)
    await new Promise(done => {
      const {port1, port2} = new MessageChannel();
      port1.onmessage = done;
      port2.postMessage(0);
    });
};
const settled = async promise => {
  const outcome = [];
  promise.then(value => outcome.push(value));
  await until(() => outcome.length);
  return outcome[0];
};
addEventListener("load", async () => {
  const seen = [];
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, view = frame.contentWindow;
    seen.push(await (async () => { PROBE })());
  }
  document.getElementById("seen").textContent = JSON.stringify(seen);
  console.log("probe has run");
});
</script></body>"""

Look = Callable[..., list[Any]]


def read_probe(*names: str) -> str:
    """The files of probes/, one after the other, as the body of one function."""
    return "\n".join((Path(__file__).parent / "probes" / f"{name}.js").read_text(encoding="utf-8") for name in names)


@pytest.fixture(scope="session")
def chromium() -> str:
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((path for name in names if (path := shutil.which(name))), None)
    if path is None:
        reason = f"no browser: none of {', '.join(names)} is installed (on Debian: apt-get install chromium)"
        print(reason)
        pytest.skip(reason)
    return path


@pytest.fixture
def look(chromium: str, tmp_path: Path) -> Look:
    """Opens a page in frames and returns what a probe, the body of an async function of `page` and `view`, returns in
    each. No console message may appear."""

    def opened(page: Path, probe: str, *, widths: Sequence[int] = WIDTHS, dark: bool = False) -> list[Any]:
        frames = "".join(
            f'<iframe src="{page.as_uri()}" style="border:0;width:{width}px;height:900px"></iframe>' for width in widths
        )
        outer = tmp_path / "frames.html"
        outer.write_text(FRAMES.replace("FRAMES", frames).replace("PROBE", probe), encoding="utf-8")
        options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        options += "--disable-component-update --disable-sync --allow-file-access-from-files --enable-logging=stderr "
        options += "--hide-scrollbars --virtual-time-budget=20000 "
        options += f"--window-size=1400,1000 --blink-settings=preferredColorScheme={0 if dark else 1}"
        command = [chromium, *options.split(), f"--user-data-dir={tmp_path / 'browser'}", "--dump-dom", outer.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        assert len(said) == 1, said
        assert "probe has run" in said[0]
        found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
        assert found is not None
        seen: list[Any] = json.loads(html.unescape(found[1]))
        return seen

    return opened
