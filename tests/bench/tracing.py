"""What tracing costs: processor time of the service for each answer, without a collector and with one, in turn.

    python tests/bench/tracing.py [--turns 10] [--rounds 40] [--requests 60] [--before DIR]

A service of 20,000 items of width 64 for each kind, one worker, and a collector in this process. In each round every
kind answers as many requests, in an order that is drawn; the processor time of all threads of its process is read when
the round is over, so that what is sent later counts too. In each turn all processes are new, because two processes of
one program differ too. Kinds: `off`; `0 %` (a collector, nobody is recorded); `1 %`; `100 %`; `gone` (1 %, and no
collector behind the address); with --before also a checkout of the repository as it was before. JSON last: of each kind
its processor time by that of `off` (of all rounds, and the interval of 95 % by bootstrap over turns), microseconds of
processor and milliseconds of an answer. It exits with 1 where 1 % costs 2 % or more.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
from filter import SERVED, write_catalogue
from rig import ask, connect, machine, percentiles, started_process

from tests.service.tracing.collector import collecting

MOST = 1.02
LAST_SENT_S = 6.0
NOBODY = "http://127.0.0.1:9"
ROOT = Path(__file__).parents[2]


class Kind:
    """One of the services that are compared, with what was measured of it."""

    def __init__(self) -> None:
        self._connection: HTTPConnection
        self._pid = 0
        self._last_ns = 0
        self.cpu_ns: list[int] = []
        self.times_ms: list[float] = []

    def begin(self, url: str, pid: int, stack: ExitStack) -> None:
        """Go on with a new process."""
        self._connection, self._pid = stack.enter_context(closing(connect(url))), pid

    def answer(self, bodies: list[bytes], *, is_noted: bool) -> None:
        """Answer requests one after the other, and note what each took."""
        for body in bodies:
            took_ms, status, answer = ask(self._connection, "/recommend", body)
            assert status == 200, answer
            self.times_ms += [took_ms] * is_noted

    def end_round(self, *, is_noted: bool) -> None:
        """Note the processor time of a round."""
        last, self._last_ns = self._last_ns, self._read_ns()
        self.cpu_ns += [self._last_ns - last] * is_noted

    def end_turn(self) -> None:
        """Add the processor time since the last round to it."""
        self.cpu_ns[-1] += self._read_ns() - self._last_ns

    def _read_ns(self) -> int:
        tasks = Path(f"/proc/{self._pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks)


def settings_of(endpoint: str, *, with_before: bool) -> dict[str, dict[str, str]]:
    """Return what each kind is started with."""
    return {
        "off": {},
        "0 %": {"otlp_endpoint": endpoint, "trace_share": "0"},
        "1 %": {"otlp_endpoint": endpoint, "trace_share": "0.01"},
        "100 %": {"otlp_endpoint": endpoint, "trace_share": "1"},
        "gone": {"otlp_endpoint": NOBODY, "trace_share": "0.01"},
        **({"before": {}} if with_before else {}),
    }


def take_turn(
    kinds: dict[str, Kind], settings: dict[str, dict[str, str]], folder: Path, arguments: argparse.Namespace
) -> None:
    """Start a service of each kind and let them answer in rounds, of which the first two warm up."""
    drawn = random.Random(len(kinds["off"].cpu_ns))
    with ExitStack() as stack:
        for number, (name, own) in enumerate(settings.items()):
            common = {
                "data_dir": str(folder / f"data{number}"),
                "budget_ms": "1000",
                "log_requests": "0",
                "keep_alive_s": "3600",
            }
            cwd = arguments.before if name == "before" else ROOT
            started = started_process(folder / "bundle", cwd=cwd, **common, **own)
            kinds[name].begin(*stack.enter_context(started), stack)
        for number in range(arguments.rounds + 2):
            histories = [[f"i{drawn.randrange(SERVED)}" for _ in range(10)] for _ in range(arguments.requests)]
            bodies = [json.dumps({"history": history, "k": 10}).encode() for history in histories]
            for name in drawn.sample(sorted(kinds), len(kinds)):
                kinds[name].answer(bodies, is_noted=number > 1)
            for kind in kinds.values():
                kind.end_round(is_noted=number > 1)
        time.sleep(LAST_SENT_S)  # what was recorded last is still to be sent
        for kind in kinds.values():
            kind.end_turn()


def interval(own: np.ndarray, other: np.ndarray) -> list[float]:
    """Return the interval of 95 % of the ratio of two sums, by bootstrap over turns."""
    turns = np.random.default_rng(0).integers(0, len(own), (2000, len(own)))
    ratios = own[turns].sum(axis=1) / other[turns].sum(axis=1)
    return [round(float(each), 4) for each in np.percentile(ratios, [2.5, 97.5])]


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--before", type=Path, metavar="DIR")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, collecting() as receiver:
        folder = Path(directory)
        write_catalogue(folder / "bundle", SERVED, is_sum=False)
        settings = settings_of(receiver.url, with_before=arguments.before is not None)
        kinds = {name: Kind() for name in settings}
        for _ in range(arguments.turns):
            take_turn(kinds, settings, folder, arguments)
    found = {}
    for name, kind in kinds.items():
        own, off = (np.reshape(each.cpu_ns, (arguments.turns, -1)).sum(axis=1) for each in (kind, kinds["off"]))
        found[name] = {
            "ratio": round(float(own.sum() / off.sum()), 4), "interval": interval(own, off),
            "cpu_us": round(float(own.sum()) / 1000 / len(kind.times_ms), 1), "ms": percentiles(kind.times_ms),
        }  # fmt: skip
        print(f"{name:>8} {found[name]}", file=sys.stderr)
    print(json.dumps({"machine": machine(), "requests": len(kinds["off"].times_ms), "found": found}))
    return 0 if found["1 %"]["ratio"] < MOST else 1


if __name__ == "__main__":
    sys.exit(main())
