"""Latency of /recommend at one client, against a null FastAPI handler in the same run, interleaved.

    python tests/bench/latency.py --bundle DIR --histories prepared/histories.jsonl.gz
    python tests/bench/latency.py --url http://127.0.0.1:8000 --users users.txt

With --bundle it starts a service of its own (embedded server, fresh directory) and imports the histories. Both are
asked in turn over kept-alive connections, so that what else the machine does falls on both. Two passes: `first` asks
each user once (no cached embedding), `again` asks them once more. Prints a table, and JSON on the last line.
"""

import argparse
import json
import random
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from rig import (
    NULL_APP,
    ask,
    connect,
    import_histories,
    machine,
    percentiles,
    read_histories,
    started_app,
    started_service,
)


def main() -> None:
    """Run the benchmark."""
    arguments = parse_arguments()
    listed = arguments.users.read_text().split("\n")[:-1] if arguments.users else read_histories(arguments.histories)
    users = list(listed)
    random.Random(0).shuffle(users)
    users = users[: arguments.requests]
    with ExitStack() as stack:
        service = arguments.url or start(arguments, stack)
        null = stack.enter_context(started_app(NULL_APP))
        measure(service, null, [f"nobody-{n}" for n in range(200)], arguments.k)  # warm up, on users of no history
        passes = {name: measure(service, null, users, arguments.k) for name in ("first", "again")}
    report(passes, arguments)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="start a service on this bundle")
    parser.add_argument("--histories", type=Path, help="what to import (prepared/histories.jsonl.gz)")
    parser.add_argument("--url", help="measure a running service instead")
    parser.add_argument("--users", type=Path, help="one user id a line; default: the users of --histories")
    parser.add_argument("--requests", type=int, default=3000, help="requests a pass (default 3000)")
    parser.add_argument("-k", type=int, default=10, help="items asked for (default 10)")
    arguments = parser.parse_args()
    if bool(arguments.url) == bool(arguments.bundle) or not (arguments.users or arguments.histories):
        parser.error("give --bundle and --histories, or --url and --users")
    return arguments


def start(arguments: argparse.Namespace, stack: ExitStack) -> str:
    """Import the histories and start a service; return its URL."""
    data = stack.enter_context(tempfile.TemporaryDirectory())
    if arguments.histories:
        import_histories(arguments.histories, data_dir=data)
    return stack.enter_context(started_service(arguments.bundle, data_dir=data))


def measure(service: str, null: str, users: list[str], k: int) -> dict[str, object]:
    """Ask the service and the null handler in turn."""
    there, nowhere = connect(service), connect(null)
    took: dict[str, list[float]] = {"recommend": [], "null": [], "own": []}
    levels: Counter[str] = Counter()
    for user in users:
        body = json.dumps({"user_id": user, "k": k}).encode()
        took_ms, status, answer = ask(there, "/recommend", body)
        assert status == 200, answer
        fields = json.loads(answer)
        levels[fields["quality"]["level"]] += 1
        took["recommend"].append(took_ms)
        took["own"].append(fields["took_ms"])
        took["null"].append(ask(nowhere, "/null", body)[0])
    return {"levels": dict(levels), "n": len(users), **{name: percentiles(times) for name, times in took.items()}}


def report(passes: dict[str, dict[str, object]], arguments: argparse.Namespace) -> None:
    """Print the table, and JSON on the last line."""
    names = {"recommend": "/recommend", "own": "  of it took_ms", "null": "null handler"}
    print(f"{'ms, one client':<22}{'p50':>8}{'p90':>8}{'p99':>8}{'p99.9':>8}{'max':>8}")
    for which, result in passes.items():
        for key, label in names.items():
            row = result[key]
            assert isinstance(row, dict)
            print(f"{which + ' ' + label:<22}" + "".join(f"{value:>8.2f}" for value in row.values()))
        print(f"{which}: {result['n']} requests, levels {result['levels']}")
    print(json.dumps({**machine(), "k": arguments.k, **passes}))


if __name__ == "__main__":
    main()
