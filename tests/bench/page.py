"""What a page of five slots, a batch of twenty and a scenario take beside one list, from one caller, in turn.

    python tests/bench/page.py [--requests 400]

A service of 20,000 items of width 64 and a store that holds the user. For each kind: milliseconds of one request, 10th
percentile and median, and how many times one list it takes. JSON last. It exits with 1 where five slots take more than
2.5 times one list, by the 10th percentile, which a busy machine moves least.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
from filter import SERVED, write_catalogue
from rig import ask, connect, machine, started_service

MOST = 2.5
FIELDS = {"filter": {"price": {"lt": 50}}, "max_per": [{"attribute": "brand", "n": 2}]}
SLOTS = [{"name": f"slot {number}", "k": 10} for number in range(5)]
ASKED: dict[str, tuple[str, dict[str, object]]] = {
    "one list": ("/recommend", {"user_id": "u", "k": 10}),
    "page of five": ("/page", {"user_id": "u", "slots": SLOTS}),
    "five, each filtered": (
        "/page",
        {"user_id": "u", "slots": [{**slot, "filter": {"brand": "b1"}} for slot in SLOTS]},
    ),
    "batch of twenty": ("/recommend/batch", {"requests": [{"user_id": "u", "k": 10}] * 20}),
    "filter and max_per": ("/recommend", {"user_id": "u", **FIELDS}),
    "the same by scenario": ("/recommend", {"user_id": "u", "scenario": "home"}),
}


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=400)
    n_requests = parser.parse_args().requests
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        write_catalogue(folder / "bundle", SERVED, is_sum=False)
        scenarios = folder / "scenarios.json"
        scenarios.write_text(json.dumps({"home": FIELDS}))
        settings = {"data_dir": str(folder / "data"), "budget_ms": "1000", "scenarios": str(scenarios)}
        with started_service(folder / "bundle", **settings) as url, closing(connect(url)) as caller:
            events = [{"user_id": "u", "item_id": f"i{row}", "timestamp": 1000 + row} for row in range(20)]
            _, status, answer = ask(caller, "/events", json.dumps({"events": events}).encode())
            assert status == 200, answer
            taken: dict[str, list[float]] = {name: [] for name in ASKED}
            for number in range(n_requests + 20):
                for name, (path, body) in ASKED.items():
                    began = time.perf_counter()
                    _, status, answer = ask(caller, path, json.dumps(body).encode())
                    assert status == 200, answer
                    taken[name] += [(time.perf_counter() - began) * 1000] * (number >= 20)  # the first ones warm up
    p10s = {name: float(np.percentile(each, 10)) for name, each in taken.items()}
    found = [
        {"asked": name, "p10_ms": round(own, 3), "p50_ms": round(float(np.median(taken[name])), 3),
         "times_one_list": round(own / p10s["one list"], 2)}
        for name, own in p10s.items()
    ]  # fmt: skip
    for each in found:
        print(" ".join(f"{value:>20}" for value in each.values()), file=sys.stderr)
    print(json.dumps({"machine": machine(), "items": SERVED, "requests": n_requests, "found": found}))
    return 0 if p10s["page of five"] <= MOST * p10s["one list"] else 1


if __name__ == "__main__":
    sys.exit(main())
