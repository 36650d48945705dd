"""A bundle's trial: python -m service.release.trial DIR KIND CODES loads it in a process of its own.

A bundle from elsewhere is code of a kind, because a C++ library parses and runs its graph. So it is first loaded by a
process that has no keys in its environment and can read no others' (see confinement), that may use so much memory and
time and no more, and whose end harms nobody. What it answers must be right, and must not cost too much (see cost). The
trial also keeps work that takes seconds for a large catalogue away from the process that answers requests; it runs at a
lower priority than that one.
"""

from service import environment  # noqa: F401, I001  # before numpy

import asyncio
import os
import resource
import signal
import sys
import sysconfig
from functools import partial
from pathlib import Path
from typing import cast

import orjson

from service.bundle import BundleError, BundleMissingError, Manifest, read_manifest
from service.child import python_module, tie_to_parent
from service.errors import GoldenError, RefusedError, StartError
from service.metrics import SWAP_RESULTS
from service.model.model import load_model
from service.model.student import Student
from service.release.confinement import confine, limit
from service.release.cost import KILLED_AFTER_S, check_cost
from service.search.choice import Kind

_TIMEOUT_S = 600.0
_CPU_S = 600
_BASE_BYTES = 4 << 30
_FILE_BYTES = 256 << 20
_FILES = 256
_NICE = 10
_VERDICT_BYTES = 64 << 10
_KEPT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH")
_GIVEN = {
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1", "HOME": "/nonexistent",
}  # fmt: skip
_SYSTEM = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/local/lib", "/sys/devices/system/cpu", "/proc/cpuinfo",
           "/proc/meminfo", "/dev/null", "/dev/urandom")  # fmt: skip


async def try_bundle(path: Path, *, kind: Kind, codes: Path) -> None:
    """Load the bundle at path in a process of its own. Raises RefusedError, with the reason why it is not to be served.

    kind: how its catalogue is searched. codes: the directory where the codes of a large catalogue are left for the
    service (see search.choice).
    """
    command = python_module("service.release.trial", str(path), kind, str(codes))
    process = await asyncio.create_subprocess_exec(
        *tie_to_parent(command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={name: os.environ[name] for name in _KEPT if name in os.environ} | _GIVEN,
    )  # in this process's session: Linux shares the processor among sessions first, and is nice only inside of one
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            said = await _listen(process)
            await process.wait()
    except TimeoutError:
        raise RefusedError("error", f"{path}: its trial took longer than {_TIMEOUT_S:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    _read_verdict(path, said, process.returncode)


async def _listen(process: asyncio.subprocess.Process) -> bytes:
    """Return what the process says before it ends. One that says more than a verdict's length is killed.

    It is killed once: a second signal, to one that has just ended, would take its exit code away from asyncio.
    """
    said, is_killed = b"", False
    while process.stdout is not None and (part := await process.stdout.read(_VERDICT_BYTES)):
        if len(said) <= _VERDICT_BYTES:  # the rest is read too, or asyncio would not see the end
            said += part
        elif process.returncode is None and not is_killed:
            is_killed = True
            process.kill()
    return said[:_VERDICT_BYTES]


def _read_verdict(path: Path, said: bytes, code: int | None) -> None:
    if code == -signal.SIGPROF:
        text = f"{path}: a batch of histories takes more than {KILLED_AFTER_S:.0f} s; it is not served"
        raise RefusedError("rejected_canary", text)
    if code == -signal.SIGXCPU:
        raise RefusedError("rejected_canary", f"{path}: its trial takes more than {_CPU_S} s; it is not served")
    try:
        verdict = orjson.loads(said)
        result, message = str(verdict["result"]), str(verdict["message"])
    except (orjson.JSONDecodeError, TypeError, KeyError):
        result, message = "", ""
    if result not in SWAP_RESULTS:
        raise RefusedError("error", f"{path}: its trial ended with code {code}")
    if result != "ok":
        raise RefusedError(result, message)


def _judge(path: Path, kind: Kind, codes: Path) -> tuple[str, str]:
    """Return a label of model_swaps_total, and what is wrong with the bundle."""
    try:
        _prepare(path, codes)
        load_model(path, kind=kind, codes=codes, warn=lambda message: None, examine=partial(_examine, path))
    except RefusedError as exc:
        return exc.result, str(exc)
    except GoldenError as exc:
        return "rejected_canary", str(exc)
    except (StartError, BundleError) as exc:
        is_sum = "sha256" in str(exc) or "bytes, the manifest" in str(exc) or isinstance(exc, BundleMissingError)
        return "rejected_checksum" if is_sum else "rejected_schema", str(exc)
    except MemoryError:
        return "error", f"{path}: it takes too much memory to load"
    return "ok", ""


def _examine(path: Path, student: Student, manifest: Manifest) -> None:
    check_cost(student, path, max_history=manifest.max_history, dim=manifest.dim, n_items=manifest.n_items)


def _prepare(path: Path, codes: Path) -> None:
    """Bound what this process may use by what a bundle of this size may take, and take everything else from it."""
    os.nice(_NICE)
    os.umask(0o077)
    size = sum(entry["size"] for entry in read_manifest(path).files.values())
    limit({
        resource.RLIMIT_AS: _BASE_BYTES + 16 * size,
        resource.RLIMIT_CPU: _CPU_S,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: _FILE_BYTES + 2 * size,
        resource.RLIMIT_NOFILE: _FILES,
        resource.RLIMIT_NPROC: 0,
    })  # fmt: skip
    codes.mkdir(parents=True, exist_ok=True, mode=0o700)
    confine([path, *_own_places()], [codes])


def _own_places() -> list[Path]:
    """Return where Python and the libraries lie. Of a checkout only the package: secrets may lie beside it."""
    package = Path(__file__).parents[1]
    paths = [Path(entry) for entry in (*sys.path, *sysconfig.get_paths().values(), *_SYSTEM)]
    if package.parent.name not in ("site-packages", "dist-packages"):
        paths = [entry for entry in paths if entry != package.parent]
    return [package, Path(f"/proc/{os.getpid()}"), *paths]


if __name__ == "__main__":
    result, message = _judge(Path(sys.argv[1]), cast(Kind, sys.argv[2]), Path(sys.argv[3]))
    sys.stdout.write(orjson.dumps({"result": result, "message": message[:1000]}).decode())
