"""python -m service doctor: what would go wrong on this machine, with these settings, and the way out of it.

Every check looks at one thing and returns a Finding; none changes anything. PASS, WARN: it serves, and something is
weaker than it could be; FAIL: it does not serve, or loses what it acknowledged. Values come from the caller: the
settings are not seen here.
"""

import os
import resource
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.errors import RefusedError, StoreError
from service.store.client import Store

PASS, WARN, FAIL = "PASS", "WARN", "FAIL"
_CALL_S = 2.0
_N_PINGS = 50
_SLOW_SHARE = 0.5
_CLOCK_WARN_S, _CLOCK_FAIL_S = 1.0, 60.0
SPARE_FILES = 256
_SPARE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. advice: the way out, where it is not PASS."""

    level: str
    subject: str
    text: str
    advice: str = ""


def check_cores(n_workers: int, n_cores: int, environment: Mapping[str, str]) -> Finding:
    """Threads times workers against the cores that this process may use. One worker is one thread that computes."""
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
    """Who may ask."""
    if is_exposed:
        advice = "RETORT_API_KEYS, or RETORT_ALLOW_ANONYMOUS=1 behind something that asks for keys"
        return Finding(FAIL, "keys", f"{host} is open to everybody, and no key is set: it refuses to start", advice)
    if not has_admin:
        return Finding(PASS, "keys", f"listens on {host}; without RETORT_ADMIN_KEY the model routes are closed")
    return Finding(PASS, "keys", f"listens on {host}")


async def check_bundle(path: Path | None, try_bundle: Callable[[Path], Awaitable[None]]) -> Finding:
    """Sums, shapes, and golden answers, in a process of its own."""
    if path is None:
        return Finding(WARN, "bundle", "none given", "RETORT_BUNDLE or --bundle, unless a version is live in the store")
    try:
        await try_bundle(path)
    except RefusedError as exc:
        return Finding(FAIL, "bundle", str(exc), "export it again, or copy it again from where it is whole")
    return Finding(PASS, "bundle", f"{path}: sums, shapes and golden answers are right")


async def check_store(store: Store, slow_s: float) -> list[Finding]:
    """Latency, memory policy, persistence and clock of the server."""
    try:
        findings = [await _check_latency(store, slow_s)]
        info = _parse_info(await _ask(store, "INFO"))
        clock = await _ask(store, "TIME")
    except StoreError as exc:
        advice = "see RETORT_REDIS_URL: address, password and ACL; without a store, answers are fallbacks"
        return [Finding(FAIL, "store", f"does not answer: {exc.kind}", advice)]
    return [*findings, judge_memory(info), judge_persistence(info), judge_clock(clock)]


def check_metrics_directory(environment: Mapping[str, str]) -> Finding:
    """The directory of the counts, where somebody sets it by hand: --workers makes one of its own."""
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
    """File descriptors: callers keep connections open, the store's and the log's come on top."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = max_in_flight + n_connections + SPARE_FILES
    text = f"{soft} may be open, {needed} are wanted"
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return Finding(PASS, "files", text)
    return Finding(WARN, "files", text, f"ulimit -n {needed} (here at most {hard}), or a smaller RETORT_MAX_IN_FLIGHT")


def check_disk(data_dir: Path) -> Finding:
    """Whether the data directory can be written to, and has room for the append-only file and two bundles."""
    place = next(path for path in (data_dir, *data_dir.absolute().parents) if os.access(path, os.F_OK))
    if not os.access(place, os.W_OK | os.X_OK):
        return Finding(FAIL, "disk", f"{place} cannot be written to", "set RETORT_DATA_DIR to a directory of your own")
    free = shutil.disk_usage(place).free
    text = f"{free / 1e9:.1f} GB free in {place}"
    if free < _SPARE_BYTES:
        return Finding(WARN, "disk", text, "make room: the append-only file and fetched bundles live there")
    return Finding(PASS, "disk", text)


async def _check_latency(store: Store, slow_s: float) -> Finding:
    times = []
    for _ in range(_N_PINGS):
        start = time.perf_counter()
        await _ask(store, "PING")
        times.append(time.perf_counter() - start)
    p50, p90 = sorted(times)[_N_PINGS // 2], sorted(times)[_N_PINGS * 9 // 10]
    text = f"answers in {p50 * 1000:.2f} ms (p90 {p90 * 1000:.2f}); its share of the budget is {slow_s * 1000:.0f} ms"
    if p50 > slow_s:
        return Finding(
            FAIL, "latency", text, "a nearer store, or a longer RETORT_BUDGET_MS: every answer would do without"
        )
    if p90 > _SLOW_SHARE * slow_s:
        return Finding(WARN, "latency", text, "a nearer or less busy store")
    return Finding(PASS, "latency", text)


def judge_memory(info: Mapping[str, str]) -> Finding:
    """Whether the server may throw away what it was told to keep."""
    policy, most = info.get("maxmemory_policy", "unknown"), int(info.get("maxmemory", "0"))
    text = f"maxmemory {most / 1e6:.0f} MB, {policy}" if most else f"maxmemory not set, {policy}"
    if policy != "noeviction" and most:
        return Finding(
            FAIL, "eviction", text, "CONFIG SET maxmemory-policy noeviction: acknowledged events would vanish"
        )
    if policy != "noeviction":
        return Finding(WARN, "eviction", text, "CONFIG SET maxmemory-policy noeviction, before a maxmemory is set")
    used = int(info.get("used_memory", "0"))
    if most and used > 0.8 * most:
        return Finding(WARN, "eviction", f"{text}, {used / most:.0%} used", "raise it: once full, events are refused")
    return Finding(PASS, "eviction", text)


def judge_persistence(info: Mapping[str, str]) -> Finding:
    """Whether what it keeps outlives it."""
    if info.get("loading") == "1":
        return Finding(WARN, "persistence", "the server is loading its file", "wait")
    if info.get("role") in ("slave", "replica"):
        return Finding(FAIL, "persistence", "the server is a replica", "point RETORT_REDIS_URL at the primary")
    if info.get("aof_last_write_status", "ok") != "ok" or info.get("rdb_last_bgsave_status", "ok") != "ok":
        return Finding(FAIL, "persistence", "the last write to disk failed", "look at the server's log: a full disk?")
    if info.get("aof_enabled") != "1":
        advice = "CONFIG SET appendonly yes: a restart would lose acknowledged events"
        return Finding(WARN, "persistence", "no append-only file", advice)
    return Finding(PASS, "persistence", "append-only file, last write well")


def judge_clock(reply: Any) -> Finding:
    """How far apart the clocks are; reply: of TIME, seconds and microseconds."""
    apart_s = abs(time.time() - (int(reply[0]) + int(reply[1]) / 1e6))
    text = f"{apart_s:.3f} s from the store's"
    if apart_s > _CLOCK_FAIL_S:
        return Finding(FAIL, "clock", text, "synchronise clocks (NTP): events of the future are refused")
    if apart_s > _CLOCK_WARN_S:
        return Finding(WARN, "clock", text, "synchronise clocks (NTP): histories are ordered by time")
    return Finding(PASS, "clock", text)


async def _ask(store: Store, *command: str) -> Any:
    (reply,) = await store.call("user", [command], _CALL_S)
    if kind := store.explain(reply):
        raise StoreError(kind)
    return reply


def _parse_info(reply: Any) -> dict[str, str]:
    """The reply to INFO, which redis-py may have parsed already."""
    if isinstance(reply, dict):
        return {str(name): str(value) for name, value in reply.items()}
    text = reply.decode() if isinstance(reply, bytes) else str(reply)
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#"))


def print_findings(findings: list[Finding]) -> int:
    """Print every finding and its way out; return the exit code: 1 if one is FAIL."""
    for finding in findings:
        print(f"{finding.level}  {finding.subject:<12} {finding.text}")
        if finding.advice:
            print(f"      {'':<12} → {finding.advice}")
    worst = next(level for level in (FAIL, WARN, PASS) if any(finding.level == level for finding in findings))
    print({FAIL: "it would not serve well: see above", WARN: "it serves; see above", PASS: "nothing found"}[worst])
    return int(worst == FAIL)
