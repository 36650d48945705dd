"""The embedded server: a private Valkey or Redis process on a Unix socket, owned by this process.

It ends with its owner (by a parent-death signal) and is restarted if it ends alone. Its append-only file outlives both.
A data directory has one owner at a time.

The server runs with `appendfsync no`, and its owner syncs the file once a second. With `everysec` the server may hold
back a write that it has acknowledged for two seconds, while a sync runs; a kill -9 of the server would lose it. As it
is, a kill of either process loses nothing that was acknowledged, and a power cut about the last second.

What was erased, trimmed or has expired still stands in the append-only file until the server rewrites it. The owner has
it rewritten when its oldest part is older than a set time, and the command compact does so at once.

While the server cannot be started, the reason is kept beside the data, for every process of the service to tell.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from service.child import tie_to_parent
from service.errors import StartError
from service.private_directory import make_private, open_private
from service.store.server import AOF_DIR, Choice, choose_server, find_server, note_writer
from service.store.words import printable
from service.task import end_task, keep_going

_MAX_SOCKET_PATH = 100
_STOP_S = 10.0
_SYNC_EVERY_S = 1.0
_WATCH_EVERY_S = 0.05
_MAX_BACKOFF_S = 2.0
_ASK_S = 0.5
_LOOK_EVERY_S = 60.0
_SAID_BYTES = 16 << 10
_SAID_LINES = 2
_QUIET = ("WARNING", "Server initialized", "Configuration loaded")  # advice on the machine, and news
TROUBLE = "server.trouble"


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

    def __init__(
        self,
        data_dir: Path,
        *,
        compact_every_s: float = 86_400.0,
        on_trouble: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """compact_every_s: how old a part of the append-only file may get. on_trouble: is told why there is no server.

        It is told when the server could not be started, or has ended by itself; the same reason once a minute at most.
        """
        self._dir = data_dir
        self._compact_every_s, self._on_trouble = compact_every_s, on_trouble
        self._log_size = 0
        self._is_in_trouble = False
        self._told: tuple[str, float] = ("", 0.0)
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
            lock = open_private(make_private(self._dir) / "lock", os.O_RDWR | os.O_CREAT)
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
        """Become the owner, end a server that a former owner has left, and start the server.

        Raises StartError, and OSError where something cannot be written. That the programs here cannot read the data is
        no error, but trouble.
        """
        if self._lock is None and not self.try_lock():
            raise StartError(f"{self._dir}: in use by another retort process; give each its own RETORT_DATA_DIR")
        self._end_orphan()
        self._make_socket_directory()
        find_server()
        self._remove_remains()
        self._note_trouble("")
        self._spawn_with(lambda: choose_server(self._dir))

    def supervise(self) -> None:
        """Begin to restart the server whenever it ends, and to sync its file every second, until stop()."""
        self._watch_task = asyncio.create_task(keep_going("the watch of the embedded server", self._watch))

    async def stop(self) -> None:
        """End the server, sync its file, and give up the directory."""
        if self._watch_task is not None:
            await end_task(self._watch_task)
        if self._process is not None:
            await asyncio.to_thread(_end, self._process)
            self._sync_files()
            for name in (self._socket, self._dir / "server.pid"):
                name.unlink(missing_ok=True)
        if self._lock is not None:
            (self._dir / TROUBLE).unlink(missing_ok=True)
            os.close(self._lock)

    def _spawn_with(self, choose: Callable[[], Choice]) -> None:
        """Start the server that is chosen, or note why there is none. Called from the main thread, see above."""
        try:
            binary, version = choose()
            if version is not None:
                note_writer(self._dir, version)
            self._spawn(binary)
        except StartError as exc:
            self._note_trouble(str(exc))

    def _note_trouble(self, reason: str) -> None:
        """Keep why there is no server, where other processes find it; an empty reason: there is one."""
        self._is_in_trouble = bool(reason)
        with contextlib.suppress(OSError):  # a full disk may be the trouble
            if not reason:
                (self._dir / TROUBLE).unlink(missing_ok=True)
            else:
                aside = self._dir / f".{TROUBLE}"
                aside.write_text(reason)
                aside.rename(self._dir / TROUBLE)
        if reason and (reason != self._told[0] or time.monotonic() - self._told[1] > _LOOK_EVERY_S):
            self._told = reason, time.monotonic()
            self._on_trouble(reason)

    def _last_words(self, code: int) -> str:
        """Return why the server has ended, in its own words."""
        said = b""
        for name, start in (("server.log", self._log_size), ("server.out", 0)):
            with contextlib.suppress(OSError), (self._dir / name).open("rb") as file:
                file.seek(max(start, file.seek(0, os.SEEK_END) - _SAID_BYTES))
                said += file.read()
        lines = [line.partition(" # ")[2] or line for line in said.decode(errors="replace").splitlines()]
        loud = [line for line in lines if line.strip() and " * " not in line and " - " not in line]
        last = [line for line in loud if not line.startswith(_QUIET)][-_SAID_LINES:]
        return f"the embedded server ended with code {code}: {printable('; '.join(last)) or 'it said nothing'}"

    def _spawn(self, binary: Path) -> None:
        options = {
            "port": "0", "unixsocket": str(self._socket), "unixsocketperm": "700", "dir": str(self._dir.resolve()),
            "appendonly": "yes", "appendfsync": "no", "save": "", "daemonize": "no", "databases": "1",
            "maxmemory-policy": "noeviction", "logfile": "server.log", "protected-mode": "yes",
            "slowlog-log-slower-than": "-1",  # it would keep commands, and the ids of users in them
        }  # fmt: skip
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        log = self._dir / "server.log"
        self._log_size = log.stat().st_size if log.exists() else 0
        with os.fdopen(open_private(self._dir / "server.out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as out:
            self._process = subprocess.Popen(
                tie_to_parent([str(binary), *arguments]),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        aside = self._dir / ".server.pid"
        aside.write_text(f"{self._process.pid} {_started_at(self._process.pid)}\n")
        aside.rename(self._dir / "server.pid")  # whoever reads it reads a whole one

    async def _watch(self) -> None:
        backoff_s, synced, looked = 0.1, time.monotonic(), -_LOOK_EVERY_S
        while True:
            await asyncio.sleep(_WATCH_EVERY_S)
            now = time.monotonic()
            code = self._process.poll() if self._process is not None else None
            if self._process is None or code is not None:
                if code is not None:
                    self._note_trouble(self._last_words(code))
                    self._process = None
                await asyncio.sleep(backoff_s)
                backoff_s = min(_MAX_BACKOFF_S, backoff_s * 2)
                await asyncio.wait([task := asyncio.create_task(asyncio.to_thread(choose_server, self._dir))])
                try:
                    self._spawn_with(task.result)
                except OSError as exc:  # it passes by itself, or whoever operates it sees to it
                    self._note_trouble(f"the embedded server cannot be started: {exc.strerror}")
                synced = time.monotonic()
            elif now - synced >= _SYNC_EVERY_S:
                await asyncio.to_thread(self._sync_files)
                synced, backoff_s = time.monotonic(), 0.1
            elif self._is_in_trouble and await self._ask(b"PING") == b"+PONG":
                self._note_trouble("")
            elif now - looked >= min(_LOOK_EVERY_S, self._compact_every_s):
                looked = now
                is_due = await asyncio.to_thread(self._is_compacting_due)
                if is_due and not (await self._ask(b"BGREWRITEAOF")).startswith(b"+"):
                    looked = now - _LOOK_EVERY_S + _SYNC_EVERY_S  # it may be loading its file

    async def _ask(self, command: bytes) -> bytes:
        """Send one word to the server, and return the first line of its reply; nothing, if there is none in time."""
        try:
            async with asyncio.timeout(_ASK_S):
                reader, writer = await asyncio.open_unix_connection(str(self._socket))
                try:
                    writer.write(command + b"\r\n")
                    return (await reader.readline()).strip()
                finally:
                    writer.close()
        except (OSError, ValueError):
            return b""

    def _is_compacting_due(self) -> bool:
        """Return whether the append-only file was last rewritten so long ago that it may hold what must be gone."""
        bases = list((self._dir / AOF_DIR).glob("*.base.*"))
        with contextlib.suppress(OSError):
            return bool(bases) and time.time() - max(path.stat().st_mtime for path in bases) > self._compact_every_s
        return False

    def _remove_remains(self) -> None:
        """Delete what a server left that was killed while it rewrote its file. None runs now."""
        for pattern in ("temp-*.aof", "temp-*.rdb", f"{AOF_DIR}/temp[-_]*"):
            for path in self._dir.glob(pattern):
                path.unlink(missing_ok=True)

    def _sync_files(self) -> None:
        for path in (self._dir / AOF_DIR).glob("*.aof"):
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


def read_trouble(data_dir: Path) -> str:
    """Return why a data directory has no server at present; nothing, if its owner knows of no reason."""
    try:
        with (data_dir / TROUBLE).open("rb") as file:
            return printable(file.read(_SAID_BYTES).decode(errors="replace"), _SAID_BYTES)
    except OSError:
        return ""


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
