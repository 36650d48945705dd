"""What each command of training does. run/parser.py has their options.

`run` and `prepare` resolve the settings anew and write them into the run directory. Every other command goes on with
the settings of the directory, and refuses a new value for what an earlier stage was made with.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from training import ranks
from training.data.prepare import parse_columns
from training.data.simulate import simulate
from training.engine.choice import EngineWish
from training.errors import InputError, StageError, TrainingError
from training.export.evaluate_bundle import evaluate_bundle
from training.loop.refresh import Refresher, Wishes
from training.loop.schedule import check_finished, parse_duration, refresh_every
from training.loop.service_command import ServiceCommand
from training.progress import Progress, TensorBoardLog
from training.report.comparison import compare_runs
from training.report.page import write_comparison
from training.report.text import ablation_lines, capacity_lines, comparison_lines, compression_lines, summary_lines
from training.run.config import Config, check_refit
from training.run.config_file import differing_settings, dump_config, load_config
from training.run.demo import FIRST, FIRST_RUN, SMALL, WHOLE_RUN, check_port, serve_demo
from training.run.directory import Run, check_prepared
from training.run.fault import machine_fault, write_whole
from training.run.lock import hold
from training.run.newcomer import run_newcomers
from training.run.pipeline import (
    run_baselines,
    run_compress,
    run_distill,
    run_export,
    run_prepare,
    run_report,
    run_teacher,
)
from training.run.processes import check_together, launch, launches
from training.run.study import run_ablation, run_capacity, run_compression, run_search

Table = dict[str, Any]

STAGES: Mapping[str, Callable[[Run], None]] = {
    "teacher": run_teacher,
    "distill": run_distill,
    "compress": run_compress,
    "export": run_export,
    "newcomers": run_newcomers,
    "baselines": run_baselines,
    "report": run_report,
}
"""The stages after prepare, in their order."""
STUDIES: Mapping[str, tuple[Callable[[Run], Table], Callable[[Table], list[str]]]] = {
    "ablation": (run_ablation, ablation_lines),
    "capacity": (run_capacity, capacity_lines),
    "compression": (run_compression, compression_lines),
}
"""What is measured beside the stages, and how its table is printed."""
MAKERS = {
    "prepare": "prepare", "split": "prepare", "teacher": "teacher", "student": "distill", "distill": "distill",
    "compress": "compress", "newcomers": "export",
}  # fmt: skip
"""The command that is made with each section of settings."""
_DATA = frozenset({"prepare", "split"})
_STUDENT = _DATA | {"teacher", "student", "distill"}
MADE_BEFORE = {
    "teacher": _DATA, "distill": _DATA, "baselines": _DATA, "compress": _STUDENT, "export": _STUDENT,
    "newcomers": _STUDENT | {"compress"}, "report": _STUDENT | {"compress", "newcomers"},
    "search": _DATA | {"teacher"}, "ablation": _DATA | {"teacher"},
    "capacity": _DATA | {"teacher"}, "compression": _STUDENT,
}  # fmt: skip
"""The sections that earlier stages were made with, for each command. It would only write a new value down, unused."""


def run_command(words: Sequence[str], arguments: argparse.Namespace) -> int:
    """Run the command that the words of a command line name, and return its exit code, which main() explains."""
    try:
        if launches(arguments):
            return launch(words, arguments.processes)
        with ranks.join(), ExitStack() as arguments.held:
            COMMANDS[arguments.command](arguments)
    except ranks.FollowedError as error:
        return error.exit_code
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        if ranks.started() == 1:  # else who started the processes says it
            print("interrupted: the same command goes on where it stopped", file=sys.stderr)
        return 130
    except Exception as error:  # the process entry: a fault of the machine is said in a line, a bug shows its trace
        fault = machine_fault(error)
        if fault is None:
            raise
        print(f"error: {fault}", file=sys.stderr)
        return InputError.exit_code
    return 0


def _simulate(arguments: argparse.Namespace) -> None:
    simulate(arguments.out, users=arguments.users, items=arguments.items, days=arguments.days, seed=arguments.seed)
    print(f"{arguments.out}: interactions.csv.gz and items.csv")


def _run(arguments: argparse.Namespace) -> None:
    run = _make(arguments)
    print("\n".join(summary_lines(json.loads((run.out / "metrics.json").read_text()))))
    print(f"report: {run.out / 'report.html'}\nserve:  python -m service --bundle {run.out / 'bundle'}")


def _make(arguments: argparse.Namespace, last: str = "report") -> Run:
    """Run the stages of a run, up to the last one that is wanted."""
    budget = _budget(arguments)
    arguments.set = [*arguments.set, *budget]
    run = _prepare(arguments)
    run_teacher(run)
    if budget:
        run = run_search(run)
    for name, work in STAGES.items():
        work(run)
        if name == last:
            break
    return run


def _prepare(arguments: argparse.Namespace) -> Run:
    """Resolve the settings and prepare the data. Where the files are refused, the directory is left as it was."""
    existed, resolved = arguments.out.exists(), arguments.out / "config.toml"
    known = resolved.read_bytes() if resolved.exists() else None
    named = {"columns": arguments.columns, "item_columns": arguments.item_columns}
    columns = [f"prepare.{name}={json.dumps(text)}" for name, text in named.items() if text]
    settings = load_config(arguments.config, [*arguments.set, *columns])
    if arguments.refit:
        check_refit(settings)
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise InputError(f"{arguments.out}: {exc.strerror}; --out takes a directory") from exc
    run = _open_run(arguments, settings, saved=settings)
    try:
        wish = EngineWish(arguments.engine, arguments.memory_mb, arguments.master)
        run_prepare(run, arguments.interactions, arguments.items, wish)
    except Exception:  # whatever it is, it is raised again
        if not existed:
            shutil.rmtree(arguments.out)
        elif known is not None:
            resolved.write_bytes(known)
        raise
    return run


def _stage(arguments: argparse.Namespace) -> None:
    STAGES[arguments.command](_continue_run(arguments))


def _search(arguments: argparse.Namespace) -> None:
    run_search(_continue_run(arguments))


def _study(arguments: argparse.Namespace) -> None:
    study, lines = STUDIES[arguments.command]
    run = _continue_run(arguments)
    print("\n".join(lines(study(run))))
    if (run.out / "bundle").exists():  # a finished run: its report shows the study from now on
        run_report(run)
        print(f"report: {run.out / 'report.html'}")


def _evaluate(arguments: argparse.Namespace) -> None:
    metrics = evaluate_bundle(
        arguments.bundle,
        arguments.interactions,
        arguments.heldout,
        columns=parse_columns(arguments.columns),
        exclude_seen=arguments.exclude_seen,
    )
    print(json.dumps(metrics))


def _compare(arguments: argparse.Namespace) -> None:
    table = compare_runs(arguments.runs, Progress())
    print("\n".join(comparison_lines(table)))
    if arguments.html:
        write_comparison(arguments.html, table)
        print(f"page: {arguments.html}")
    print(json.dumps(table))


def _refresh(arguments: argparse.Namespace) -> None:
    every_s = parse_duration(arguments.every) if arguments.every else None
    if arguments.full_every < 0:
        raise InputError(f"--full-every must be at least 0, not {arguments.full_every}")
    check_finished(arguments.out)
    if isinstance(arguments.items, Path) and not arguments.items.exists():
        raise InputError(f"--items {arguments.items}: no such file")
    arguments.held.enter_context(hold(arguments.out))
    wishes = Wishes(arguments.set, arguments.items, arguments.full_every)
    refresher = Refresher(arguments.out, ServiceCommand(arguments.store), wishes, Progress())
    refresh_every(refresher, every_s, lambda line: print(line, flush=True))


def _demo(arguments: argparse.Namespace) -> None:
    check_port(arguments.port)
    print("A first model is made, which takes about a minute on two quiet cores, and served; its address follows.\n")
    world = arguments.out / "world"
    if arguments.interactions is None:
        if not world.exists():
            simulate(world, users=2000, items=1000, days=180, seed=1)
        arguments.interactions, arguments.items = world / "interactions.csv.gz", world / "items.csv"
        arguments.set = [*SMALL, *arguments.set]
    first, whole = arguments.out / FIRST_RUN, arguments.out / WHOLE_RUN

    def train_first() -> Path:
        with ExitStack() as held:
            settings = {"out": first, "set": [*arguments.set, *FIRST], "held": held}
            return _make(argparse.Namespace(**vars(arguments) | settings), "export").out

    def train() -> Path:
        if not whole.exists() and first.exists():  # the files are read once
            shutil.copytree(first / "prepared", whole / ".copied")
            (whole / ".copied").rename(whole / "prepared")
        with ExitStack() as held:
            _run(argparse.Namespace(**vars(arguments) | {"out": whole, "held": held}))
        return whole

    if (whole / "report.html").exists():
        code = serve_demo(train(), arguments.port)  # skips what is made already
    else:
        code = serve_demo(train_first(), arguments.port, train)
    if code:
        raise StageError(f"the service ended with exit code {code}; see {whole.parent / 'service.log'}")


def _continue_run(arguments: argparse.Namespace) -> Run:
    """Open a directory that was prepared. Raises InputError for a new value of what an earlier stage was made with."""
    settings, saved = ranks.alone(lambda: _resolve(arguments))
    return _open_run(arguments, settings, saved)


def _resolve(arguments: argparse.Namespace) -> tuple[Config, Config]:
    """Return the settings that a command goes on with, and those that it writes down."""
    command, resolved = arguments.command, arguments.out / "config.toml"
    settings = load_config(
        arguments.config or (resolved if resolved.exists() else None), [*arguments.set, *_budget(arguments)]
    )
    if arguments.refit:
        check_refit(settings)
    check_together(command, settings)
    check_prepared(arguments.out)
    known = load_config(resolved) if resolved.exists() else Config()
    for name in differing_settings(known, settings):
        section = name.partition(".")[0]
        if section in MADE_BEFORE[command]:
            maker = MAKERS[section]
            raise InputError(f"{name}: {command} takes it as {maker} made it; run 'python -m training {maker}' with it")
    # a search or study may try other settings than the run's own, so only its own section is saved
    is_trial = command == "search" or command in STUDIES
    saved = replace(known, **{command: getattr(settings, command)}) if is_trial else settings
    return settings, saved


def _open_run(arguments: argparse.Namespace, settings: Config, saved: Config) -> Run:
    """Return the run with its settings, and write those that are saved into its directory."""

    def enter() -> None:
        arguments.held.enter_context(hold(arguments.out))
        write_whole(arguments.out / "config.toml", dump_config(saved))

    ranks.alone(enter)
    if not ranks.is_first():
        return Run(arguments.out, settings, Progress(is_quiet=True))
    log = TensorBoardLog(arguments.tensorboard) if arguments.tensorboard else None
    return Run(arguments.out, settings, Progress(log), arguments.refit)


def _budget(arguments: argparse.Namespace) -> list[str]:
    """Return the --budget options as settings, for commands that have them."""
    given = {name: getattr(arguments, name, None) for name in ("budget_ms", "budget_mb")}
    return [f"search.{name}={value}" for name, value in given.items() if value is not None]


COMMANDS: Mapping[str, Callable[[argparse.Namespace], Any]] = {
    "simulate": _simulate,
    "run": _run,
    "prepare": _prepare,
    **dict.fromkeys(STAGES, _stage),
    "search": _search,
    **dict.fromkeys(STUDIES, _study),
    "evaluate": _evaluate,
    "compare": _compare,
    "refresh": _refresh,
    "demo": _demo,
}
