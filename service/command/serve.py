"""The command serve: one process that answers requests, or a supervisor and its workers."""

import argparse
import asyncio
import logging
import os
import signal
import socket
import tempfile
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from service.access.key import LEAST_KEY
from service.access.rate import FILE_BYTES, SharedLedger
from service.app import open_service
from service.command.worker import Supervisor, WorkerStart
from service.composition.storage import start_embedded
from service.errors import StartError
from service.logs import Log, LogHandler
from service.settings import Settings, environment_of, ignored_names, read_settings
from service.wire.server import BACKLOG, Server, ServerRule, address_of, bind, loop_factory

MAX_WORKERS = 64


@dataclass(frozen=True, slots=True)
class Inherited:
    """What a worker has from its supervisor; None when alone.

    listener_fd: the bound socket. ready_fd: a pipe, into which the worker writes once it serves. store_kind: of the
    store that the supervisor started. rates_file: where all workers note the rates of callers.
    """

    listener_fd: int | None
    ready_fd: int | None
    store_kind: str | None
    rates_file: Path | None


def serve(arguments: argparse.Namespace) -> int:
    """Serve until told to stop; return the exit code. Raises StartError."""
    if not 1 <= arguments.workers <= MAX_WORKERS:
        raise StartError(f"--workers: 1 to {MAX_WORKERS}, not {arguments.workers}")
    settings = read_settings(
        bundle=arguments.bundle, host=arguments.host, port=arguments.port, data_dir=arguments.data_dir
    )
    if settings.is_exposed_without_keys:
        raise StartError(
            f"refusing to listen on {settings.host} without keys: set RETORT_API_KEYS, or RETORT_ALLOW_ANONYMOUS=1"
        )
    if settings.has_short_keys:
        raise StartError(f"refusing to listen on {settings.host} with a key of less than {LEAST_KEY} characters")
    log = Log(settings.log_level)
    _route_logging(log)
    if names := ignored_names():
        log.write("warning", "setting_ignored", names=names, message="the address of a Kubernetes Service, no setting")
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            if arguments.workers > 1:
                runner.run(_supervise(settings, arguments.workers, log, is_pinned=arguments.pin))
            else:
                inherited = Inherited(
                    arguments.listener_fd, arguments.ready_fd, arguments.store_kind, arguments.rates_file
                )
                runner.run(_listen(settings, log, inherited, is_pinned=arguments.pin))
    finally:
        log.close()
    return 0


async def _supervise(settings: Settings, n_workers: int, log: Log, *, is_pinned: bool) -> None:
    """Run several workers until told to stop."""
    listener = bind(settings.host, settings.port)
    listener.set_inheritable(True)
    async with AsyncExitStack() as stack:
        metrics_dir = _make_metrics_directory(stack)
        rates_file = metrics_dir / "rates"
        rates_file.write_bytes(bytes(FILE_BYTES))
        arguments = ["--rates-file", str(rates_file), *(["--pin"] if is_pinned else [])]
        if settings.redis_url is None:
            url = SecretStr(start_embedded(settings, stack, log))
            settings = settings.model_copy(update={"redis_url": url})
            arguments += ["--store-kind", "embedded"]
        environment = environment_of(settings, os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(metrics_dir)})
        start = WorkerStart(listener, arguments, environment)
        stop_s = settings.drain_s + settings.shutdown_s
        supervisor = Supervisor(start, n_workers, metrics_dir=metrics_dir, log=log, stop_s=stop_s)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, supervisor.stop)
        await supervisor.wait_until_ready()
        log.write("info", "listening", **address_of(listener), pid=os.getpid(), workers=n_workers)
        await supervisor.run()
    log.write("info", "stopped")


def _make_metrics_directory(stack: AsyncExitStack) -> Path:
    """Make the directory in which workers count, gone with the stack. Raises StartError."""
    try:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="retort-metrics-")))
    except OSError as exc:
        raise StartError(f"--workers needs a directory for temporary files: {exc.strerror}; set TMPDIR") from exc


async def _listen(settings: Settings, log: Log, inherited: Inherited, *, is_pinned: bool) -> None:
    """Serve in this process until told to stop, alone or as a worker."""
    is_alone = inherited.listener_fd is None
    listener = bind(settings.host, settings.port) if is_alone else socket.socket(fileno=inherited.listener_fd)
    async with AsyncExitStack() as stack:
        ledger = None
        if inherited.rates_file is not None:
            ledger = stack.enter_context(closing(SharedLedger(inherited.rates_file)))
        service = await stack.enter_async_context(
            open_service(settings, log, store_kind=inherited.store_kind, ledger=ledger, is_pinned=is_pinned)
        )
        listener.listen(BACKLOG)  # before it is said: uvicorn itself listens a few ticks later
        event = "listening" if is_alone else "worker_ready"
        log.write("info", event, **address_of(listener), pid=os.getpid(), model_version=service.version)
        if inherited.ready_fd is not None:
            os.write(inherited.ready_fd, b"1")
            os.close(inherited.ready_fd)
        rule = ServerRule(settings.drain_s, settings.shutdown_s, settings.keep_alive_s, settings.root_path)
        server = Server(service.app, service.crowd, service.drain, rule)
        await server.serve(sockets=[listener])
    log.write("info", "stopped")


def _route_logging(log: Log) -> None:
    root = logging.getLogger()
    root.handlers = [LogHandler(log)]
    root.setLevel(logging.INFO)
