"""The page in a real browser: at a phone's and a desk's width, light and dark, finished, unfinished and hostile."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isoflop.durable import write_json
from isoflop.report.page import write_report

WIDTHS = (390, 1280)
# A window of headless Chromium is at least some 500 px wide; a frame in it can be as narrow as a phone.
FRAMES = """<!DOCTYPE html><body style="margin:0">{frames}<pre id="seen"></pre><script>
addEventListener("load", () => {{
  const seen = [...document.querySelectorAll("iframe")].map(frame => {{
    const page = frame.contentDocument, view = frame.contentWindow;
    const box = element => {{
      const {{left, right, width, height}} = element.getBoundingClientRect();
      return [left, right, width, height];
    }};
    const marks = "path.curve, path.point, path.law", stroke = path => view.getComputedStyle(path).stroke;
    const shown = [...page.querySelectorAll("figure > svg")].filter(svg => box(svg)[2] > 0);
    return {{
      width: view.innerWidth, scroll_width: page.documentElement.scrollWidth, height: page.documentElement.scrollHeight,
      resources: view.performance.getEntriesByType("resource").map(entry => entry.name),
      background: view.getComputedStyle(page.body).backgroundColor, ink: view.getComputedStyle(page.body).color,
      figures: page.querySelectorAll("figure").length,
      drawings: shown.map(svg => ({{box: box(svg), marks: [...svg.querySelectorAll(marks)].map(box)}})),
      texts: shown.flatMap(svg => [...svg.querySelectorAll("text")].map(text => [...box(text), text.textContent])),
      headings: [...page.querySelectorAll("h1, h2")].map(heading => [...box(heading), heading.textContent]),
      strokes: [...new Set(shown.flatMap(svg => [...svg.querySelectorAll("path.curve")].map(stroke)))],
    }};
  }});
  document.getElementById("seen").textContent = JSON.stringify(seen);
  console.log("probe has run");
}});
</script></body>"""

Look = Callable[..., list[dict[str, Any]]]


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
    """Opens a page in frames of both widths and returns what a probe sees in each. No console message may appear."""

    def opened(page: Path, *, dark: bool = False) -> list[dict[str, Any]]:
        frames = "".join(
            f'<iframe src="{page.as_uri()}" style="border:0;width:{width}px;height:900px"></iframe>' for width in WIDTHS
        )
        outer = tmp_path / "frames.html"
        outer.write_text(FRAMES.format(frames=frames), encoding="utf-8")
        options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        options += "--disable-component-update --disable-sync --allow-file-access-from-files --enable-logging=stderr "
        options += "--hide-scrollbars "
        options += f"--window-size=1400,1000 --blink-settings=preferredColorScheme={0 if dark else 1}"
        command = [chromium, *options.split(), f"--user-data-dir={tmp_path / 'browser'}", "--dump-dom", outer.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        assert len(said) == 1, said
        assert "probe has run" in said[0]
        found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
        assert found is not None
        seen: list[dict[str, Any]] = json.loads(html.unescape(found[1]))
        assert [frame["width"] for frame in seen] == list(WIDTHS)
        return seen

    return opened


def change(path: Path, **values: Any) -> None:
    write_json(path, {**json.loads(path.read_bytes()), **values})


def assert_readable(frame: dict[str, Any]) -> None:
    """Nothing reaches past the right edge, nothing was fetched, and every figure and its words are there."""
    assert frame["scroll_width"] <= frame["width"]
    assert frame["resources"] == []
    assert len(frame["drawings"]) == frame["figures"]
    for drawing in frame["drawings"]:
        left, right, width, height = drawing["box"]
        assert left >= 0
        assert right <= frame["width"]
        assert width > 0.8 * min(frame["width"], 1000)
        assert height > 50
        for left, right, width, height in drawing["marks"]:
            assert right <= frame["width"]
            assert left >= 0
            assert width + height > 5
    for left, right, _, height, text in frame["texts"] + frame["headings"]:
        assert left >= 0, text
        assert right <= frame["width"] + 1, text
        assert height >= 11, text


def test_a_finished_run_is_readable_at_both_widths(run_directory: Path, look: Look) -> None:
    for frame in look(write_report(run_directory)):
        assert_readable(frame)
        assert frame["figures"] == 3
        assert [len(drawing["marks"]) for drawing in frame["drawings"]] == [1, 8, 18]
        # One colour a size: the law's ladder in shades, the held-out model apart.
        assert len(frame["strokes"]) == 5


def test_dark_is_dark_and_light_is_light(run_directory: Path, look: Look) -> None:
    page = write_report(run_directory)
    for dark in (False, True):
        for frame in look(page, dark=dark):
            background, ink = (sum(map(int, re.findall(r"\d+", frame[name])[:3])) for name in ("background", "ink"))
            assert (background < 120 < 600 < ink) if dark else (ink < 120 < 600 < background)


def test_an_empty_run_is_readable(tmp_path: Path, look: Look) -> None:
    (tmp_path / "empty").mkdir()
    for frame in look(write_report(tmp_path / "empty")):
        assert_readable(frame)
        assert frame["figures"] == 0


def test_hostile_and_endless_names_run_nothing_and_break_nothing(run_directory: Path, look: Look) -> None:
    endless = "W" * 64
    hostile = "</title></svg><script>console.error(1)</script><img src=x onerror=console.error(2)>"
    plan = json.loads((run_directory / "plan.json").read_bytes())
    for model in plan["models"]:
        model["size"] = endless + model["size"]
    plan["models"].append({**plan["models"][0], "name": endless, "size": hostile})
    change(run_directory / "plan.json", models=plan["models"], family=endless, machine={endless: endless + hostile})
    shutil.copytree(run_directory / "models" / "w80", run_directory / "models" / endless)
    result = {"name": hostile, "joules_origin": hostile, "weights_sha256": endless * 3}
    change(run_directory / "models" / endless / "result.json", **result)
    change(run_directory / "forecast.json", model=hostile + endless, warnings=[endless * 3, hostile])
    change(run_directory / "data" / "manifest.json", licence=endless + hostile, notice=endless * 5 + hostile)
    for frame in look(write_report(run_directory)):
        assert_readable(frame)
        assert frame["figures"] == 3
