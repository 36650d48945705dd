"""Three services behind haproxy and a Cluster of three nodes, each in a network of its own, while parts of it die.

    python tests/bench/replicas.py [--seconds 5]

Bundles of 20,000 items of width 64; haproxy as in tests/service/whole/test_proxy.py; what happens is in
tests/service/replicas.py: a service is killed, a node is killed, all services are restarted in turn, a version is
published, under callers that ask and send events without a pause. Needs root (or user namespaces), ip and haproxy.
JSON last: of each phase the answers by status and level, events that were refused once, milliseconds of an answer; how
many events were sent and kept, and whether all services give the same answers. It exits with 1 where a request failed,
an event is not there once, or the answers differ.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

from filter import SERVED, write_catalogue
from rig import machine

from tests.contract.namespace import enter_namespace

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        write_catalogue(folder / "bundle", SERVED, is_sum=False)
        write_catalogue(folder / "next", SERVED + 1, is_sum=False)
        (folder / "out").mkdir()
        command = [sys.executable, "-m", "tests.service.replicas", "--seconds", str(seconds)]
        for name in ("bundle", "next", "out"):
            command += [f"--{name}", str(folder / name)]
        done = subprocess.run([*enter_namespace("--net", tools=("ip",)), *command], cwd=ROOT, stdout=subprocess.PIPE)
    if done.returncode != 0:
        return 1
    found = json.loads(done.stdout.splitlines()[-1])
    for phase, seen in found["phases"].items():
        print(f"{phase:>16} {seen}", file=sys.stderr)
    print(json.dumps({"machine": machine(), "items": SERVED, **found}))
    has_failed = any(seen["statuses"].keys() != {"200"} for seen in found["phases"].values())
    is_right = found["are_counts_exact"] and found["are_answers_the_same"] and found["is_next_served"]
    return 0 if is_right and not has_failed else 1


if __name__ == "__main__":
    sys.exit(main())
