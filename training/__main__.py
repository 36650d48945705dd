"""The commands of training: python -m training COMMAND --help. Options are in run/parser.py, work is in command.py."""

from training import machine  # noqa: F401, I001  # before torch, polars and the other packages of the extra

import sys
from collections.abc import Sequence
from importlib import import_module

from training.run.parser import build_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code: 0 done, 1 a failed stage, 2 something to correct, 130 interrupted.

    75 is that of one of several processes that has lost another.
    """
    words = sys.argv[1:] if argv is None else argv
    arguments = build_parser().parse_args(words)
    command = import_module("training.command")  # after the line is read: torch takes seconds, and help needs none
    return int(command.run_command(words, arguments))


if __name__ == "__main__":
    sys.exit(main())
