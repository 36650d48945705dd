"""A machine without a way out that records who wants one: python -m tests.contract.silent_host REPORT COMMAND ...

Run in a network and a mount namespace of its own, as root of them. It has the loopback interface alone, no route, and a
resolver on 127.0.0.1 that notes each name and knows none. REPORT is JSON: the exit code of the command, the names that
were asked for, and how many packets the kernel had no route for (connections to an address count there).
"""

import fcntl
import json
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

_SET_FLAGS, _UP_AND_RUNNING = 0x8914, 0x41  # SIOCSIFFLAGS, IFF_UP | IFF_RUNNING
_FILES = {"/etc/resolv.conf": "nameserver 127.0.0.1\n", "/etc/nsswitch.conf": "hosts: files dns\n"}


def main(report: Path, command: list[str]) -> int:
    """Run a command on the silent machine; return its exit code."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as loopback:
        fcntl.ioctl(loopback, _SET_FLAGS, struct.pack("16sH14x", b"lo", _UP_AND_RUNNING))
    with tempfile.TemporaryDirectory() as directory:
        for name, text in _FILES.items():
            own = Path(directory) / Path(name).name
            own.write_text(text)
            subprocess.run(["mount", "--bind", own, name], check=True)
        names: list[str] = []
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver:
            resolver.bind(("127.0.0.1", 53))
            threading.Thread(target=record_names, args=(resolver, names), daemon=True).start()
            code = subprocess.run(command, check=False).returncode
        report.write_text(json.dumps({"code": code, "names": names, "no_route": count_unroutable()}))
    return code


def record_names(resolver: socket.socket, names: list[str]) -> None:
    """Note the name of each query, and answer that there is no such name."""
    while True:
        query, sender = resolver.recvfrom(4096)
        names.append(read_name(query))
        resolver.sendto(query[:2] + b"\x81\x83" + query[4:6] + bytes(6) + query[12:], sender)


def read_name(query: bytes) -> str:
    """Return the name that a query asks for: labels, each after its length, and a length of zero."""
    labels, place = [], 12
    while length := query[place]:
        labels.append(query[place + 1 : place + 1 + length].decode("latin-1"))
        place += 1 + length
    return ".".join(labels)


def count_unroutable() -> int:
    """Return how many packets this network namespace had no route for, of both families."""
    names, values = (line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line[:3] == "Ip:")
    count = int(dict(zip(names, values, strict=True))["OutNoRoutes"])
    six = Path("/proc/net/snmp6")
    lines = six.read_text().splitlines() if six.exists() else []
    return count + sum(int(line.split()[1]) for line in lines if line.startswith("Ip6OutNoRoutes"))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
