"""How quick is the studio, and what do a hundred watchers cost a training?

    uv run python benchmarks/studio.py [--runs 500] [--watchers 100] [--phase-seconds 30] [--phases 8] [--write]

Starts `isoflop studio` as people do, over a folder of so many runs that it launched (every tenth is paused, the others
are done), and times: from the command to its address and to its first page, the listing of all runs, and quotes of
every kind, the first time and then. Then it launches two models of the pocket family and, by turns of so many seconds,
lets watchers follow them and go away: tokens a second in metrics.jsonl with them over without, and what the server
takes of the machine's cores meanwhile, which bounds their cost however much rates vary. Takes some six minutes on two
cores that do nothing else. With --write, benchmarks/results/studio.json.
"""

import argparse
import http.client
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from isoflop.studio.detached import words
from isoflop.studio.order import Order
from isoflop.studio.places import Places
from isoflop.studio.process import look
from isoflop.studio.question import Question
from isoflop.studio.queue import Limits
from isoflop.studio.server import Opening, open_studio
from isoflop.systems.machine import processor_name

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "studio.json"
QUOTES: dict[str, dict[str, str]] = {
    "file": {},
    "flops": {"by": "flops", "amount": "1e15"},
    "hours": {"by": "hours", "amount": "2"},
    "kWh": {"by": "kwh", "amount": "0.05"},
    "money": {"by": "money", "amount": "5", "price": "2"},
    "loss": {"by": "loss", "amount": "4.2"},
    "sizes": {"by": "params", "sizes": "100k,200k,400k,800k"},
}
TIMES = 15


class Studio:
    """A server as people start it, and a session in it."""

    def __init__(self, runs: Path) -> None:
        command = [sys.executable, "-m", "isoflop", "studio", "--runs", str(runs), "--port", "0"]
        begin = time.perf_counter()
        self.process = subprocess.Popen(
            [*command, "--families", str(ROOT / "families")], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        link = urlsplit(self.process.stdout.readline().strip())
        self.start_seconds = time.perf_counter() - begin
        self.where, self.cookie, self.token = link.netloc, "", ""
        answer = self._ask("GET", f"{link.path}?{link.query}")
        self.cookie = (answer.getheader("set-cookie") or "").partition(";")[0]
        self.get("/")
        self.first_page_seconds = time.perf_counter() - begin

    def get(self, path: str) -> str:
        """A page."""
        answer = self._ask("GET", path)
        text = answer.read().decode()
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status} {text[:200]}")
        return text

    def cpu_seconds(self) -> float:
        """Of all cores, since it began."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def send(self, path: str, **fields: str) -> None:
        """A form."""
        token = self.get("/account").partition('data-token="')[2].partition('"')[0]
        answer = self._ask("POST", path, urlencode({"token": token, **fields}))
        if answer.status != 303:
            raise SystemExit(f"{path}: {answer.status} {answer.read()[:200]!r}")

    def watch(self, path: str, until: threading.Event) -> None:
        """Follows a run until the event is set."""
        connection = http.client.HTTPConnection(self.where, timeout=30)
        connection.request("GET", path, headers={"Cookie": self.cookie})
        answer = connection.getresponse()
        while not until.is_set():
            if not answer.fp or not answer.readline():
                return
        connection.close()

    def _ask(self, method: str, path: str, body: str | None = None) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(self.where, timeout=120)
        headers = {"Cookie": self.cookie, "Content-Type": "application/x-www-form-urlencoded"}
        connection.request(method, path, body, headers)
        return connection.getresponse()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--watchers", type=int, default=100)
    parser.add_argument("--phase-seconds", type=float, default=30.0)
    parser.add_argument("--phases", type=int, default=8, help="even; 0: none")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    if given.phases % 2:
        parser.error("--phases: give an even number, as half of them have watchers")
    with tempfile.TemporaryDirectory(prefix="isoflop-studio-") as place:
        runs = Path(place) / "runs"
        make_runs(runs, given.runs)
        studio = Studio(runs)
        try:
            begun = {"start_seconds": studio.start_seconds, "first_page_seconds": studio.first_page_seconds}
            found: dict[str, Any] = {**begun, "runs": given.runs, **speeds(studio)}
            if given.phases:
                found["watchers"] = watchers_cost(studio, runs, given.watchers, given.phase_seconds, given.phases)
        finally:
            studio.process.terminate()
            studio.process.wait()
    about = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "cores": os.cpu_count(), "processor": processor_name()}
    text = json.dumps({**about, "load_average": os.getloadavg()[0], **found}, indent=1)
    print(text)
    if given.write:
        RESULTS.write_text(text + "\n")


def speeds(studio: Studio) -> dict[str, Any]:
    """Seconds of pages: the first time, then the median of `TIMES`."""

    def timed(path: str) -> dict[str, float]:
        seconds = []
        for _ in range(TIMES + 1):
            begin = time.perf_counter()
            studio.get(path)
            seconds.append(time.perf_counter() - begin)
        return {"first": seconds[0], "median": statistics.median(seconds[1:]), "worst": max(seconds[1:])}

    listing = timed("/")
    asked = {name: timed("/quote.json?" + urlencode({"family": "pocket", **fields})) for name, fields in QUOTES.items()}
    drawn = timed("/quote?" + urlencode({"family": "pocket", **QUOTES["hours"], "part": "answer"}))
    return {"listing_seconds": listing, "quote_seconds": asked, "drawn_quote_seconds": drawn}


def watchers_cost(studio: Studio, runs: Path, watchers: int, seconds: float, phases: int) -> dict[str, Any]:
    """Tokens a second of a training with watchers over without, by turns."""
    studio.send("/launch", family="pocket", name="watched", by="params", sizes="300k,600k", ratio="200")
    try:
        return _by_turns(studio, runs / "watched" / "models", watchers, seconds, phases)
    finally:  # the run is no child of the server: it would go on after both of us
        studio.send("/runs/watched/tell/cancel")
        wait(lambda: not look(runs / "watched" / "studio" / "process").alive)


def _by_turns(studio: Studio, logs: Path, watchers: int, seconds: float, phases: int) -> dict[str, Any]:
    wait(lambda: any(logs.glob("*/metrics.jsonl")))
    time.sleep(10)
    turns: list[tuple[bool, float, float]] = []
    cores: dict[bool, list[float]] = {False: [], True: []}
    for phase in range(phases):
        watched, until = phase % 2 == 1, threading.Event()
        if watched:
            for _ in range(watchers):
                threading.Thread(target=studio.watch, args=("/runs/watched/events", until), daemon=True).start()
        time.sleep(2)
        begin, before = time.time(), studio.cpu_seconds()
        time.sleep(seconds)
        cores[watched].append((studio.cpu_seconds() - before) / seconds / (os.cpu_count() or 1))
        turns.append((watched, begin, time.time()))
        until.set()
        time.sleep(3)
    rates: dict[bool, list[float]] = {False: [], True: []}
    for watched, begin, end in turns:
        rate = sum(tokens_per_second(log, begin, end) for log in logs.glob("*/metrics.jsonl"))
        if not rate:
            raise SystemExit(f"no three steps ended within {seconds:g} s; give a longer --phase-seconds")
        rates[watched].append(rate)
    # Neighbours in time: what else the machine did falls on both.
    ratios = [with_them / without for with_them, without in zip(rates[True], rates[False], strict=True)]
    return {
        "number": watchers,
        "tokens_per_second": {"with": rates[True], "without": rates[False]},
        "ratios": ratios,
        "ratio": statistics.median(ratios),
        "share_of_cores": {
            "with": statistics.median(cores[True]),
            "without": statistics.median(cores[False]),
        },
    }


def tokens_per_second(log: Path, begin: float, end: float) -> float:
    """Between the first and the last step that ended in the time: a share of a step at its edges counts for nothing."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
    inside = [line for line in lines if begin <= line["time"] <= end]
    if len(inside) < 3:
        return 0.0
    return float((inside[-1]["tokens"] - inside[0]["tokens"]) / (inside[-1]["time"] - inside[0]["time"]))


def make_runs(runs: Path, count: int) -> None:
    """Runs of the pocket family's plan with their orders and results."""
    if not count:
        return
    runs.mkdir(parents=True)
    first = runs / "run-0"
    plan = [sys.executable, "-m", "isoflop", "plan", str(ROOT / "families" / "pocket.toml"), "--json"]
    made = subprocess.run([*plan, "--runs", str(runs / "none")], capture_output=True, text=True, check=True, cwd=ROOT)
    shutil.move(runs / "none" / "pocket", first)
    for model in json.loads(made.stdout)["models"]:
        folder = first / "models" / model["name"]
        folder.mkdir(parents=True)
        result = {"name": model["name"], "nats_per_token": 4.0, "seconds": 10.0, "params": model["params"]}
        (folder / "result.json").write_text(json.dumps(result))
    places = Places(runs, (ROOT / "families",))
    quote = open_studio(places, Limits(), Opening()).quotes.answer(Question(family="pocket")).to_json()
    for number in range(count):
        folder = runs / f"run-{number}"
        if number:
            shutil.copytree(first, folder)
        ordered = places.ordered(folder.name)
        ordered.path.mkdir(exist_ok=True)
        paused = number % 10 == 9
        order = Order(
            owner="local",
            ordered=datetime.now(UTC).isoformat(),
            wanted="pause" if paused else "train",
            quote=quote,
        )
        ordered.order.write_text(json.dumps(order.model_dump(mode="json")))
        ordered.process.write_bytes(words(1, 143 if paused else 0))


def wait(what: Callable[[], bool]) -> None:
    ends = time.monotonic() + 300
    while not what():
        if time.monotonic() > ends:
            raise SystemExit("waited five minutes for the training")
        time.sleep(0.2)


if __name__ == "__main__":
    main()
