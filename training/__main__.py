"""The commands of training: python -m training COMMAND --help."""

from training import machine  # noqa: F401, I001  # before torch, polars and the other packages of the extra

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from training.data.prepare import parse_columns
from training.data.simulate import simulate
from training.errors import InputError, StageError, TrainingError
from training.export.evaluate_bundle import evaluate_bundle
from training.progress import Progress, TensorBoardLog
from training.report.comparison import compare_runs
from training.report.page import write_comparison
from training.report.text import ablation_lines, capacity_lines, comparison_lines, compression_lines, summary_lines
from training.run.config import Config, check_refit, differing_settings, dump_config, load_config
from training.run.demo import SMALL, check_port, serve_demo
from training.run.directory import Run, check_prepared
from training.run.pipeline import (
    run_baselines,
    run_compress,
    run_distill,
    run_export,
    run_prepare,
    run_report,
    run_teacher,
)
from training.run.study import run_ablation, run_capacity, run_compression, run_search

EXAMPLES = """examples:
  python -m training simulate --out world                       a small made-up world to try things on
  python -m training run --interactions world/interactions.csv.gz --items world/items.csv --out runs/world
  python -m service --bundle runs/world/bundle                  serve what it made

  python -m training run --interactions shop.parquet --out runs/shop \\
      --columns user_id=CustomerID,item_id=StockCode,timestamp=InvoiceDate,weight=Quantity
  python -m training distill --out runs/shop --set distill.alpha=0.5    one stage again; the rest is kept
  python -m training report --out runs/shop

A stage whose inputs and settings are unchanged is skipped; one that was interrupted (Ctrl-C) goes on where it was.
"""

STUDIES: dict[str, tuple[Callable[[Run], dict[str, Any]], Callable[[dict[str, Any]], list[str]], str]] = {
    "ablation": (
        run_ablation,
        ablation_lines,
        "Train a student with every way to transfer, on top of the hard loss and on top of soft labels",
    ),
    "capacity": (
        run_capacity,
        capacity_lines,
        "Train students of several widths alone and under each teacher, to see where distillation pays",
    ),
    "compression": (
        run_compression,
        compression_lines,
        "Shrink the student in every way; measure each before and after it is taught on, through onnxruntime",
    ),
}


MAKERS = {"prepare": "prepare", "split": "prepare", "teacher": "teacher", "student": "distill", "distill": "distill"}
MAKERS |= {"compress": "compress"}
_DATA = frozenset({"prepare", "split"})
_STUDENT = _DATA | {"teacher", "student", "distill"}
MADE_BEFORE = {
    "teacher": _DATA, "distill": _DATA, "baselines": _DATA, "compress": _STUDENT, "export": _STUDENT,
    "report": _STUDENT | {"compress"}, "search": _DATA | {"teacher"}, "ablation": _DATA | {"teacher"},
    "capacity": _DATA | {"teacher"}, "compression": _STUDENT,
}  # fmt: skip
"""The sections of settings that each command finds made: a new value would only be written down, and believed."""
STUDIED = frozenset({"search", *STUDIES})


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code: 0 done, 1 a failed stage, 2 something to correct, 130 interrupted."""
    arguments = build_parser().parse_args(argv)
    try:
        arguments.command(arguments)
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.filename is None:
            raise
        why = f"{error.filename}: {error.strerror}"
        print(f"error: {why}; choose another place, or make this one accessible", file=sys.stderr)
        return InputError.exit_code
    except KeyboardInterrupt:
        print("interrupted: the same command goes on where it stopped", file=sys.stderr)
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="retort-train",
        description="From a file of interactions to the bundle that is served: teacher, soft labels, student.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_simulate(commands)
    _add_whole(commands)
    text = "Read, clean, order and split the files; say what was dropped and why."
    prepare = commands.add_parser("prepare", help=text, description=text)
    _add_run_options(prepare, with_data=True)
    prepare.set_defaults(command=_prepare)
    for name, (text, work) in STAGES.items():
        stage = commands.add_parser(name, help=text, description=text)
        _add_run_options(stage, with_data=False)
        stage.set_defaults(command=_stage(name, work))
    _add_search(commands)
    _add_studies(commands)
    _add_evaluate(commands)
    _add_compare(commands)
    _add_demo(commands)
    return parser


def _add_simulate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "Write interactions.csv.gz and items.csv of a made-up world. For trying and testing, not for claims."
    parser = commands.add_parser("simulate", help=text, description=text)
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--days", type=int, default=180, help="length of the recorded time")
    parser.add_argument("--seed", type=int, default=1, help="the same seed writes the same bytes")
    parser.set_defaults(command=_simulate)


def _add_whole(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "Every stage, from the file of interactions to bundle/ and report.html."
    parser = commands.add_parser(
        "run", help=text, description=text, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _add_run_options(parser, with_data=True)
    _add_budget(parser)
    parser.set_defaults(command=_run)


def _add_search(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = (
        "Choose the student's size and how it is taught, on validation users and through onnxruntime on this machine; "
        "OUT/config.toml then holds the choice, and distill trains it."
    )
    parser = commands.add_parser("search", help=text, description=text)
    _add_run_options(parser, with_data=False)
    _add_budget(parser)
    parser.set_defaults(command=_search)


def _add_studies(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    for name, (study, lines, text) in STUDIES.items():
        text += "; report.html then shows it. Goes on where it was stopped."
        parser = commands.add_parser(name, help=text, description=text)
        _add_run_options(parser, with_data=False)
        parser.set_defaults(command=partial(_study, name, study, lines))


def _add_budget(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("budget", "what the student may cost; giving one searches for the best that fits")
    group.add_argument("--budget-ms", type=float, help="encode, score and top K of one user, median, one core")
    group.add_argument("--budget-mb", type=float, help="encoder and item table")


def _search(arguments: argparse.Namespace) -> None:
    run_search(_continue_run(arguments, "search"))


def _study(
    name: str,
    study: Callable[[Run], dict[str, Any]],
    lines: Callable[[dict[str, Any]], list[str]],
    arguments: argparse.Namespace,
) -> None:
    run = _continue_run(arguments, name)
    print("\n".join(lines(study(run))))
    _report_again(run)


def _report_again(run: Run) -> None:
    """Write the report once more, where the run is finished."""
    if (run.out / "bundle").exists():
        run_report(run)
        print(f"report: {run.out / 'report.html'}")


def _budget(arguments: argparse.Namespace) -> list[str]:
    """The budget as settings."""
    given = {"budget_ms": arguments.budget_ms, "budget_mb": arguments.budget_mb}
    return [f"search.{name}={value}" for name, value in given.items() if value is not None]


def _add_run_options(parser: argparse.ArgumentParser, *, with_data: bool) -> None:
    if with_data:
        parser.add_argument(
            "--interactions",
            type=Path,
            required=True,
            help="CSV (.gz), Parquet or JSON lines with user_id, item_id, timestamp, optional weight and event",
        )
        parser.add_argument(
            "--items", type=Path, help="optional: item_id with any of title, description, attributes a|b|c"
        )
        parser.add_argument("--columns", help="other names: user_id=CustomerID,item_id=StockCode,...")
    parser.add_argument("--out", type=Path, required=True, help="the run directory")
    parser.add_argument("--config", type=Path, help="TOML file of settings; OUT/config.toml shows all of them")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="one setting; repeatable"
    )
    parser.add_argument("--tensorboard", type=Path, metavar="DIR", help="write learning curves that TensorBoard reads")
    parser.add_argument(
        "--refit", action="store_true", help="before export, train once more on everything with the chosen settings"
    )


def _add_evaluate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "Rank held-out events with a bundle, through onnxruntime. JSON on the last line."
    parser = commands.add_parser("evaluate", help=text, description=text)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--interactions", type=Path, required=True, help="what was known: OUT/prepared/known.jsonl.gz")
    parser.add_argument("--heldout", type=Path, required=True, help="what came next: OUT/prepared/heldout.jsonl.gz")
    parser.add_argument("--columns", default="", help="other names: user_id=CustomerID,item_id=StockCode,...")
    seen = parser.add_mutually_exclusive_group()
    seen.add_argument("--exclude-seen", action="store_true", default=None, help="never rank an item of the history")
    seen.add_argument("--include-seen", dest="exclude_seen", action="store_false", help="rank every item")
    parser.set_defaults(command=_evaluate)


def _add_compare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "Finished runs of the same data with different seeds as one table. JSON on the last line."
    parser = commands.add_parser("compare", help=text, description=text)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a finished run directory")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the table as a page too")
    parser.set_defaults(command=_compare)


def _add_demo(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "The whole way: simulate or take a file, train, distil, export, serve, print a curl and its answer."
    parser = commands.add_parser("demo", help=text, description=text)
    parser.add_argument("--interactions", type=Path, help="your own file; without it a small world is simulated")
    parser.add_argument("--items", type=Path, help="optional: titles and attributes of its items")
    parser.add_argument("--columns", help="other names: user_id=CustomerID,item_id=StockCode,...")
    parser.add_argument("--out", type=Path, default=Path(".demo"), help="directory to work in")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="one setting; repeatable"
    )
    parser.set_defaults(command=_demo, config=None, refit=False, tensorboard=None, budget_ms=None, budget_mb=None)


def _demo(arguments: argparse.Namespace) -> None:
    check_port(arguments.port)
    world = arguments.out / "world"
    if arguments.interactions is None:
        if not world.exists():
            simulate(world, users=2000, items=1000, days=180, seed=1)
        arguments.interactions, arguments.items = world / "interactions.csv.gz", world / "items.csv"
        arguments.set = [*SMALL, *arguments.set]
    arguments.out = arguments.out / "run"
    _run(arguments)
    code = serve_demo(arguments.out, arguments.port)
    if code:
        raise StageError(f"the service ended with exit code {code}; see {arguments.out.parent / 'service.log'}")


def _simulate(arguments: argparse.Namespace) -> None:
    simulate(arguments.out, users=arguments.users, items=arguments.items, days=arguments.days, seed=arguments.seed)
    print(f"{arguments.out}: interactions.csv.gz and items.csv")


def _run(arguments: argparse.Namespace) -> None:
    budget = _budget(arguments)
    arguments.set = [*arguments.set, *budget]
    run = _prepare(arguments)
    run_teacher(run)
    if budget:
        run = run_search(run)
    for _, work in STAGES.values():
        work(run)
    print("\n".join(summary_lines(json.loads((run.out / "metrics.json").read_text()))))
    print(f"report: {run.out / 'report.html'}\nserve:  python -m service --bundle {run.out / 'bundle'}")


def _prepare(arguments: argparse.Namespace) -> Run:
    """Run the stage that reads files, leaving a directory as it was, and no new one, when they are refused."""
    existed, resolved = arguments.out.exists(), arguments.out / "config.toml"
    known = resolved.read_bytes() if resolved.exists() else None
    columns = [f"prepare.columns={arguments.columns}"] if arguments.columns else []
    run = _open_run(arguments, arguments.config, [*arguments.set, *columns])
    try:
        run_prepare(run, arguments.interactions, arguments.items)
    except InputError:
        if not existed:
            shutil.rmtree(arguments.out)
        elif known is not None:
            resolved.write_bytes(known)
        raise
    return run


def _stage(name: str, work: Callable[[Run], None]) -> Callable[[argparse.Namespace], None]:
    """A stage alone goes on with the run's own settings; a whole run, or prepare, resolves them anew."""

    return lambda arguments: work(_continue_run(arguments, name))


def _continue_run(arguments: argparse.Namespace, command: str) -> Run:
    """Open a directory that was prepared. Raises InputError for a new value of what an earlier stage was made with."""
    resolved = arguments.out / "config.toml"
    budget = _budget(arguments) if "budget_ms" in arguments else []
    settings = load_config(arguments.config or (resolved if resolved.exists() else None), [*arguments.set, *budget])
    if arguments.refit:
        check_refit(settings)
    check_prepared(arguments.out)
    known = load_config(resolved) if resolved.exists() else Config()
    for name in differing_settings(known, settings):
        section = name.partition(".")[0]
        if section in MADE_BEFORE[command]:
            maker = MAKERS[section]
            raise InputError(f"{name}: {command} takes it as {maker} made it; run 'python -m training {maker}' with it")
    # a study may try other settings than the run's own, which stay
    saved = replace(known, **{command: getattr(settings, command)}) if command in STUDIED else settings
    return _start_run(arguments, settings, saved)


def _open_run(arguments: argparse.Namespace, config: Path | None, overrides: Sequence[str]) -> Run:
    """Resolve the settings (defaults, then config, then overrides) and write them into the run directory."""
    settings = load_config(config, overrides)
    if arguments.refit:
        check_refit(settings)
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise InputError(f"{arguments.out}: {exc.strerror}; --out takes a directory") from exc
    return _start_run(arguments, settings, settings)


def _start_run(arguments: argparse.Namespace, settings: Config, saved: Config) -> Run:
    (arguments.out / "config.toml").write_text(dump_config(saved), encoding="utf-8")
    log = TensorBoardLog(arguments.tensorboard) if arguments.tensorboard else None
    return Run(arguments.out, settings, Progress(log), arguments.refit)


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


STAGES: dict[str, tuple[str, Callable[[Run], None]]] = {
    "teacher": ("Train the teacher.", run_teacher),
    "distill": ("Save the soft labels, train the student with them and the same student without.", run_distill),
    "compress": ("Store the student's item table as compress.items says.", run_compress),
    "export": ("Write bundle/, reopen it and compare it with torch.", run_export),
    "baselines": ("Rank what the models are compared with: popularity, item-kNN, EASE, iALS.", run_baselines),
    "report": ("Write metrics.json and report.html.", run_report),
}


if __name__ == "__main__":
    sys.exit(main())
