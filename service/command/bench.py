"""The command bench: at what rate a running service keeps a latency budget (see bench.peak)."""

import argparse
import asyncio

from service.bench.client import Target
from service.bench.peak import PeakOptions
from service.bench.run import run_bench
from service.settings import read_settings
from service.wire.server import loop_factory


def bench(arguments: argparse.Namespace) -> int:
    """Measure, and print what was found; return the exit code: 1 if no rate keeps the budget. Raises StartError."""
    key = arguments.key or next(iter(read_settings().keys), None)
    question = PeakOptions(
        budget_ms=arguments.budget_ms,
        seconds=arguments.seconds,
        max_rate=arguments.max_rate,
        n_connections=arguments.connections,
        k=arguments.k,
        users=arguments.users,
        plot=arguments.plot,
    )
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(run_bench(Target(arguments.url, key), question))
