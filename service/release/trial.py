"""A bundle's trial: python -m service.release.trial DIR KIND CODES loads it in a process of its own and judges it.

A bundle from elsewhere is code of a kind, because a C++ library parses and runs its graph. So it is first loaded by a
process that has no keys in its environment, that may use so much memory and time and no more, and whose end harms
nobody. The trial also keeps work that takes seconds for a large catalogue away from the process that answers requests;
it runs at a lower priority than that one.
"""

from service import environment  # noqa: F401, I001  # before numpy

import asyncio
import os
import resource
import sys
from pathlib import Path
from typing import cast

import orjson

from service.bundle import BundleError, BundleMissingError, read_manifest
from service.child import python_module, tie_to_parent
from service.errors import GoldenError, RefusedError, StartError
from service.model.model import load_model
from service.search.choice import Kind

_TIMEOUT_S = 600.0
_CPU_S = 600
_BASE_BYTES = 4 << 30
_NICE = 10
_ENVIRONMENT = (
    "PATH",
    "HOME",
    "TMPDIR",
    "LANG",
    "LC_ALL",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "ORT_DISABLE_TELEMETRY",
)


async def try_bundle(path: Path, *, kind: Kind, codes: Path) -> None:
    """Load the bundle at path in a process of its own. Raises RefusedError, with the reason why it is not to be served.

    kind: how its catalogue is searched. codes: the directory where the codes of a large catalogue are left for the
    service (see search.choice).
    """
    process = await asyncio.create_subprocess_exec(
        *tie_to_parent(python_module("service.release.trial", str(path), kind, str(codes))),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
    )  # in this process's session: Linux shares the processor among sessions first, and is nice only inside of one
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            said, _ = await process.communicate()
    except TimeoutError:
        raise RefusedError("error", f"{path}: its trial took longer than {_TIMEOUT_S:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    _read_verdict(path, said, process.returncode)


def _read_verdict(path: Path, said: bytes, code: int | None) -> None:
    try:
        verdict = orjson.loads(said)
    except orjson.JSONDecodeError:
        raise RefusedError("error", f"{path}: its trial ended with code {code}") from None
    if verdict["result"] != "ok":
        raise RefusedError(verdict["result"], verdict["message"])


def _judge(path: Path, kind: Kind, codes: Path) -> tuple[str, str]:
    """Return a label of model_swaps_total, and what is wrong with the bundle."""
    try:
        _limit(path)
        load_model(path, kind=kind, codes=codes, warn=lambda message: None)
    except GoldenError as exc:
        return "rejected_canary", str(exc)
    except (StartError, BundleError) as exc:
        is_sum = "sha256" in str(exc) or "bytes, the manifest" in str(exc) or isinstance(exc, BundleMissingError)
        return "rejected_checksum" if is_sum else "rejected_schema", str(exc)
    except MemoryError:
        return "error", f"{path}: it takes too much memory to load"
    return "ok", ""


def _limit(path: Path) -> None:
    """Bound this process's memory and time by what a bundle of this size may take, and lower its priority."""
    os.nice(_NICE)
    size = sum(entry["size"] for entry in read_manifest(path).files.values())
    for kind, most in (
        (resource.RLIMIT_AS, _BASE_BYTES + 16 * size),
        (resource.RLIMIT_CPU, _CPU_S),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))


if __name__ == "__main__":
    result, message = _judge(Path(sys.argv[1]), cast(Kind, sys.argv[2]), Path(sys.argv[3]))
    sys.stdout.write(orjson.dumps({"result": result, "message": message}).decode())
