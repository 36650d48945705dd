"""python -m service serve: one process, or a parent and its workers."""

import argparse
import asyncio
import logging
import os
import signal
import socket
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from service.app import open_service, start_embedded
from service.command.worker import Crew
from service.errors import StartError
from service.http.server import BACKLOG, Server, address_of, bind, loop_factory
from service.logs import Log, LogHandler
from service.settings import Settings, environment_of, ignored_names, read_settings

MAX_WORKERS = 64


@dataclass(frozen=True, slots=True)
class Post:
    """What a worker was given by its crew; nothing where it serves alone."""

    listener_fd: int | None
    ready_fd: int | None
    store_kind: str | None
    is_pinned: bool


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
    log = Log(settings.log_level)
    _route_logging(log)
    if names := ignored_names():
        log.write("warning", "setting_ignored", names=names, message="the address of a Kubernetes Service, no setting")
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            if arguments.workers > 1:
                runner.run(_lead(settings, arguments.workers, log, is_pinned=arguments.pin))
            else:
                post = Post(arguments.listener_fd, arguments.ready_fd, arguments.store_kind, arguments.pin)
                runner.run(_listen(settings, log, post))
    finally:
        log.close()
    return 0


async def _lead(settings: Settings, n_workers: int, log: Log, *, is_pinned: bool) -> None:
    """Be the parent of several workers."""
    listener = bind(settings.host, settings.port)
    listener.set_inheritable(True)
    async with AsyncExitStack() as stack:
        metrics_dir = _make_metrics_directory(stack)
        arguments = ["--pin"] if is_pinned else []
        if settings.redis_url is None:
            url = SecretStr(start_embedded(settings, stack, log))
            settings = settings.model_copy(update={"redis_url": url})
            arguments += ["--store-kind", "embedded"]
        crew = Crew(
            listener,
            n_workers=n_workers,
            arguments=arguments,
            environment=environment_of(settings, os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(metrics_dir)}),
            metrics_dir=metrics_dir,
            log=log,
            stop_s=settings.drain_s + settings.shutdown_s,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, crew.stop)
        await crew.wait_until_ready()
        log.write("info", "listening", **address_of(listener), pid=os.getpid(), workers=n_workers)
        await crew.run()
    log.write("info", "stopped")


def _make_metrics_directory(stack: AsyncExitStack) -> Path:
    """Make the directory in which workers count, gone with the stack. Raises StartError."""
    try:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="retort-metrics-")))
    except OSError as exc:
        raise StartError(f"--workers needs a directory for temporary files: {exc.strerror}; set TMPDIR") from exc


async def _listen(settings: Settings, log: Log, post: Post) -> None:
    """Serve; alone, or as one of a crew."""
    is_alone = post.listener_fd is None
    listener = bind(settings.host, settings.port) if is_alone else socket.socket(fileno=post.listener_fd)
    async with open_service(settings, log, store_kind=post.store_kind, is_pinned=post.is_pinned) as service:
        listener.listen(BACKLOG)  # before it is said: uvicorn itself listens a few ticks later
        event = "listening" if is_alone else "worker_ready"
        log.write("info", event, **address_of(listener), pid=os.getpid(), model_version=service.version)
        if post.ready_fd is not None:
            os.write(post.ready_fd, b"1")
            os.close(post.ready_fd)
        server = Server(service.app, service.drain, drain_s=settings.drain_s, shutdown_s=settings.shutdown_s)
        await server.serve(sockets=[listener])
    log.write("info", "stopped")


def _route_logging(log: Log) -> None:
    root = logging.getLogger()
    root.handlers = [LogHandler(log)]
    root.setLevel(logging.INFO)
