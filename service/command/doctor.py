"""The command doctor: what would go wrong on this machine with these settings, and the way out of it.

Every check looks at one thing and returns a Finding; none leaves anything behind. PASS: nothing is wrong. WARN: the
service works, and something is weaker than it could be. FAIL: it does not work, or may lose events that it has
acknowledged. The checks of the store are in store_check.
"""

import argparse
import asyncio
import os
import resource
import shutil
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from service.app import trial_of
from service.command.store_check import FAIL, PASS, WARN, Finding, check_store
from service.composition.storage import budget_rule, reach_store
from service.errors import RefusedError, StartError
from service.logs import printable
from service.settings import Settings, read_settings

SPARE_FILES = 256
_SPARE_BYTES = 1 << 30


def examine(arguments: argparse.Namespace) -> int:
    """Run every check and print what was found; return the exit code: 1 if something is FAIL. Raises StartError."""
    settings = read_settings(
        bundle=arguments.bundle, host=arguments.host, port=arguments.port, data_dir=arguments.data_dir
    )
    return print_findings(asyncio.run(_examine(settings, arguments.workers)))


async def _examine(settings: Settings, n_workers: int) -> list[Finding]:
    findings = [
        check_cores(n_workers, len(os.sched_getaffinity(0)), os.environ),
        check_files(settings.max_in_flight, settings.store_connections),
        check_disk(settings.data_dir),
        check_metrics_directory(os.environ),
        check_keys(
            settings.host,
            is_exposed=settings.is_exposed_without_keys,
            has_admin=bool(settings.admin_key.get_secret_value()),
        ),
        check_signature(is_required=settings.requires_signature, n_keys=len(settings.public_keys)),
        await check_bundle(settings.bundle, trial_of(settings)),
    ]
    try:
        async with reach_store(settings) as store:
            return findings + await check_store(store, settings.namespace, budget_rule(settings).slow_store_s)
    except StartError as exc:
        return [*findings, Finding(FAIL, "store", str(exc), "see RETORT_REDIS_URL")]


def check_cores(n_workers: int, n_cores: int, environment: Mapping[str, str]) -> Finding:
    """Compare workers times threads with the cores that this process may use."""
    given = [environment.get(name, "") for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")]
    n_threads = max(1, *[int(value) if value.isdigit() else 1 for value in given])
    text = f"{n_workers} workers x {n_threads} threads on {n_cores} cores"
    if n_workers * n_threads > n_cores:
        return Finding(
            WARN, "cores", text, f"at most {n_cores} workers, OMP_NUM_THREADS=1: threads that wait cost time"
        )
    if n_workers == n_cores > 1:
        return Finding(WARN, "cores", text, "leave one to the store and the callers, where they share this machine")
    return Finding(PASS, "cores", text)


def check_keys(host: str, *, is_exposed: bool, has_admin: bool) -> Finding:
    """Judge who may send requests, and whether the model routes are open to anybody."""
    if is_exposed:
        advice = "RETORT_API_KEYS, or RETORT_ALLOW_ANONYMOUS=1 behind something that asks for keys"
        return Finding(FAIL, "keys", f"{host} is open to everybody, and no key is set: it refuses to start", advice)
    if not has_admin:
        return Finding(PASS, "keys", f"listens on {host}; without RETORT_ADMIN_KEY the model routes are closed")
    return Finding(PASS, "keys", f"listens on {host}")


def check_signature(*, is_required: bool, n_keys: int) -> Finding:
    """Judge who decides what is served: whoever can write to the store, or whoever has the private key."""
    if is_required:
        return Finding(PASS, "signature", f"published versions must be signed with one of {n_keys} trusted keys")
    advice = "python -m service keygen FILE, publish with --signing-key FILE, and set RETORT_TRUSTED_KEYS here"
    text = "none is required: whoever can write to the store decides what is served"
    return Finding(WARN, "signature", text, advice)


async def check_bundle(path: Path | None, try_bundle: Callable[[Path], Awaitable[None]]) -> Finding:
    """Try the bundle: its sums, its shapes and its golden answers. try_bundle: raises RefusedError."""
    if path is None:
        return Finding(WARN, "bundle", "none given", "RETORT_BUNDLE or --bundle, unless a version is live in the store")
    try:
        await try_bundle(path)
    except RefusedError as exc:
        return Finding(FAIL, "bundle", str(exc), "export it again, or copy it again from where it is whole")
    return Finding(PASS, "bundle", f"{path}: sums, shapes and golden answers are right")


def check_metrics_directory(environment: Mapping[str, str]) -> Finding:
    """Judge the directory of the metrics, if it is set by hand: --workers makes one of its own."""
    name = environment.get("PROMETHEUS_MULTIPROC_DIR")
    if name is None:
        return Finding(PASS, "metrics", "one registry, or one that --workers makes")
    path = Path(name)
    if not path.is_dir() or not os.access(path, os.W_OK):
        return Finding(FAIL, "metrics", f"{path} cannot be written to", "unset PROMETHEUS_MULTIPROC_DIR")
    if any(path.iterdir()):
        return Finding(WARN, "metrics", f"{path} holds counts of before", "empty it before each start, or unset it")
    return Finding(PASS, "metrics", f"{path} is there and empty")


def check_files(max_in_flight: int, n_connections: int) -> Finding:
    """Compare the file descriptors that are allowed with the connections that callers and the store may need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = max_in_flight + n_connections + SPARE_FILES
    text = f"{soft} may be open, {needed} are wanted"
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return Finding(PASS, "files", text)
    return Finding(WARN, "files", text, f"ulimit -n {needed} (here at most {hard}), or a smaller RETORT_MAX_IN_FLIGHT")


def check_disk(data_dir: Path) -> Finding:
    """Judge whether the data directory can be written to, and has room for the append-only file and two bundles."""
    place = next(path for path in (data_dir, *data_dir.absolute().parents) if os.access(path, os.F_OK))
    if not os.access(place, os.W_OK | os.X_OK):
        return Finding(FAIL, "disk", f"{place} cannot be written to", "set RETORT_DATA_DIR to a directory of your own")
    free = shutil.disk_usage(place).free
    text = f"{free / 1e9:.1f} GB free in {place}"
    if free < _SPARE_BYTES:
        return Finding(WARN, "disk", text, "make room: the append-only file and fetched bundles live there")
    return Finding(PASS, "disk", text)


def print_findings(findings: list[Finding]) -> int:
    """Print every finding and its way out; return the exit code: 1 if one of them is FAIL."""
    for finding in findings:
        print(printable(f"{finding.level}  {finding.subject:<12} {finding.text}"))
        if finding.advice:
            print(f"      {'':<12} → {finding.advice}")
    worst = next(level for level in (FAIL, WARN, PASS) if any(finding.level == level for finding in findings))
    print({FAIL: "it would not serve well: see above", WARN: "it serves; see above", PASS: "nothing found"}[worst])
    return int(worst == FAIL)
