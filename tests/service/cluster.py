"""A real Cluster of three nodes, of which one may die and come back, and between which slots move."""

import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import redis

from service.store.server import find_server
from tests.port import free_port
from tests.service.running import wait_for

N_SLOTS = 16384
PATIENCE_S = 90.0


class Nodes:
    """Three nodes, each with a third of the slots, each with an append-only file."""

    def __init__(self, directory: Path, stack: ExitStack, places: Mapping[str, Sequence[str]] | None = None) -> None:
        """places: the address of each node, and what stands before its command; None: all on loopback."""
        self._stack, self._directory = stack, directory
        self._hosts = ["127.0.0.1"] * 3 if places is None else list(places)
        self._before = [[]] * 3 if places is None else [list(each) for each in places.values()]
        self.ports = [free_port() for _ in range(3)]
        self._bus = [free_port() for _ in range(3)]
        self.processes = [self._start(number) for number in range(3)]
        for number in range(3):
            wait_for(lambda number=number: self._answers(number), PATIENCE_S)
            self.client(number).execute_command(
                "CLUSTER ADDSLOTSRANGE", number * N_SLOTS // 3, (number + 1) * N_SLOTS // 3 - 1
            )
            self.client(0).execute_command("CLUSTER MEET", self._hosts[number], self.ports[number], self._bus[number])
        wait_for(lambda: all(self.is_ok(number) for number in range(3)), PATIENCE_S)

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(
            f"{host}:{port}" for host, port in zip(self._hosts, self.ports, strict=True)
        )

    def client(self, number: int) -> redis.Redis:
        return redis.Redis(self._hosts[number], self.ports[number], protocol=2)

    def is_ok(self, number: int) -> bool:
        """Tell whether a node serves, knows all three, and knows who has each slot."""
        found = self.client(number).execute_command("CLUSTER INFO")
        state = found if isinstance(found, dict) else {}
        return (state.get("cluster_state"), state.get("cluster_known_nodes"), state.get("cluster_slots_assigned")) == (
            "ok",
            "3",
            str(N_SLOTS),
        )

    def sizes(self) -> list[int]:
        return [self.client(number).dbsize() for number in range(3)]

    def restart(self, *numbers: int) -> None:
        for number in numbers:
            self.processes[number] = self._start(number)
        wait_for(lambda: all(self._answers(number) and self.is_ok(number) for number in numbers), PATIENCE_S)

    def kill(self, number: int) -> None:
        self.processes[number].kill()
        self.processes[number].wait()

    def move(self, key: str) -> None:
        """Move the slot of a key to the next node."""
        slot = self.client(0).execute_command("CLUSTER KEYSLOT", key)
        source = next(n for n in range(3) if n * N_SLOTS // 3 <= slot < (n + 1) * N_SLOTS // 3)
        target = (source + 1) % 3
        names = [self.client(n).execute_command("CLUSTER MYID") for n in range(3)]
        self.client(target).execute_command("CLUSTER SETSLOT", slot, "IMPORTING", names[source])
        self.client(source).execute_command("CLUSTER SETSLOT", slot, "MIGRATING", names[target])
        keys = self.client(source).execute_command("CLUSTER GETKEYSINSLOT", slot, 100)
        self.client(source).execute_command(
            "MIGRATE", self._hosts[target], self.ports[target], "", 0, 5000, "KEYS", *keys
        )
        for n in (target, source):
            self.client(n).execute_command("CLUSTER SETSLOT", slot, "NODE", names[target])

    def _start(self, number: int) -> "subprocess.Popen[bytes]":
        options = {
            "bind": self._hosts[number], "protected-mode": "no", "port": str(self.ports[number]),
            "cluster-enabled": "yes", "cluster-port": str(self._bus[number]),
            "cluster-config-file": f"nodes-{number}.conf", "dir": str(self._directory), "appendonly": "yes",
            "appenddirname": f"aof-{number}", "save": "", "cluster-require-full-coverage": "no",
        }  # fmt: skip
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        process = subprocess.Popen([*self._before[number], str(find_server()), *arguments], stdout=subprocess.DEVNULL)
        self._stack.callback(_end, process)
        return process

    def _answers(self, number: int) -> bool:
        try:
            return bool(self.client(number).ping())
        except redis.RedisError:
            return False


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()
