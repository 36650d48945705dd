"""Commands that several processes do together: which can, how they are started, and what cannot be taught so.

`--processes N` starts what `torchrun --nproc-per-node N` would. Under torchrun, of one machine or of many, each process
comes here with the same command line.
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from service.child import python_module
from training import ranks
from training.distillation.term import TERMS, parse_terms
from training.errors import InputError
from training.run.config import Config

TOGETHER = ("teacher", "distill")
RESTARTS = 3  # of all processes, where one of them is killed


def launches(arguments: argparse.Namespace) -> bool:
    """Return whether the command is to start processes, instead of doing the work in this one.

    Raises InputError where several processes cannot do the command, or are not as many as it says.
    """
    started, wanted = ranks.started(), getattr(arguments, "processes", None)
    if started > 1 and arguments.command not in TOGETHER:
        raise InputError(f"{arguments.command} runs in one process; torchrun is for {' and '.join(TOGETHER)}")
    if wanted is None:
        return False
    if wanted < 1:
        raise InputError(f"--processes must be at least 1, not {wanted}")
    if started not in (1, wanted):
        raise InputError(f"--processes {wanted}, but torchrun started {started}: leave one of the two out")
    return wanted > started


def launch(argv: Sequence[str], processes: int) -> int:
    """Run a command line of training in so many processes of this machine; return the exit code.

    Where one of them is killed, all are started again, up to RESTARTS times, and go on from the last checkpoint. An
    error that would come again is not tried again.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # what went wrong, our processes say
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // processes)))
    command = python_module("training", *argv)
    words = ["--standalone", "--nproc-per-node", str(processes), "--no-python", *command]
    exit_code = 0
    for _ in range(1 + RESTARTS):
        exit_code = _run(words)
        if exit_code >= 0 and exit_code != ranks.LostError.exit_code:
            return exit_code
        print(f"a process of {processes} was lost: all go on from the last checkpoint", file=sys.stderr)
    return ranks.LostError.exit_code


def _run(words: Sequence[str]) -> int:
    """Run torchrun with the words of its command line; return the exit code, below 0 where a process was killed."""
    try:
        run(parse_args(words))
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        return InputError.exit_code if InputError.exit_code in codes else min(codes)  # then torchrun ended the others
    except SignalException as error:
        if error.sigval != signal.SIGINT:
            raise
        raise KeyboardInterrupt from error
    return 0


def check_together(command: str, config: Config) -> None:
    """Raise InputError where several processes are to teach a term that one alone can."""
    if ranks.count() == 1 or command != "distill":
        return
    for name in parse_terms(config.distill.terms):
        if TERMS[name].in_one_process:
            raise InputError(f"distill.terms: {name} is taught in one process: leave it or --processes out")
