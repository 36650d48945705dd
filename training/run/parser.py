"""The commands of training and their options, for `python -m training COMMAND --help`.

It only reads the command line: arguments.command is the name of the command, and training/command.py has the work.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from training.engine.choice import ENGINES
from training.engine.disk import MEMORY_MB
from training.file.source import REMOTE, Place

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
SEARCH = (
    "Choose the student's size and how it is taught, on validation users and through onnxruntime on this machine; "
    "OUT/config.toml then holds the choice, and distill trains it."
)
REFRESH = """It takes the events that the service has accepted since, trains on from the weights of the live model,
judges the live model and the new one on the newest events, which neither saw, and publishes the new one unless it may
be worse. OUT is the directory of a finished run; refreshes lie in OUT/refresh, their history in OUT/refreshes.jsonl.

examples:
  python -m training run --interactions shop.parquet --out runs/shop            the first model
  python -m service publish runs/shop/bundle                                    makes it the live version
  python -m training refresh --store redis://localhost:6379 --out runs/shop     one refresh: for cron
  python -m training refresh --store redis://localhost:6379 --out runs/shop --every 6h --full-every 28

It prints one line: what was published and why, or why nothing was. The exit code is 0 for both, and where nothing is
new; 2 where the store cannot be reached or something is to be corrected. Whenever it is stopped, the same command goes
on where it was: no event is taken twice and none is left out. Its settings: --set refresh.margin=0.05 and others.
"""
STUDY = "; report.html then shows it. Goes on where it was stopped."
COLUMNS = "other names: user_id=CustomerID,item_id=StockCode,..., or places, counted from 1: user_id=1,item_id=2"
ITEM_COLUMNS = "other names in the items file: item_id=parent_asin,title=name"

AddOptions = Callable[[argparse.ArgumentParser], None]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="retort-train",
        description="From a file of interactions to the bundle that is served: teacher, soft labels, student.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, (text, add_options) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        add_options(command)
        if name == "refresh":
            command.epilog, command.formatter_class = REFRESH, argparse.RawDescriptionHelpFormatter
        if name == "run":
            command.epilog, command.formatter_class = EXAMPLES, argparse.RawDescriptionHelpFormatter
    return parser


def _place(text: str) -> Place:
    """Return the path that a text names, or the text itself where it is an address such as s3://bucket/events."""
    return text if REMOTE.match(text) else Path(text)


def _add_simulate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--days", type=int, default=180, help="length of the recorded time")
    parser.add_argument("--seed", type=int, default=1, help="the same seed writes the same bytes")


def _add_run(parser: argparse.ArgumentParser) -> None:
    _add_prepare(parser)
    _add_budget(parser)


def _add_prepare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--interactions",
        type=_place,
        required=True,
        help="a file, a directory or glob of parts, or an address: CSV and its like, JSON or Parquet, compressed "
        "or not, with user_id, item_id, timestamp, optional weight and event",
    )
    parser.add_argument(
        "--items", type=_place, help="optional: item_id with any of title, description, attributes a|b|c"
    )
    parser.add_argument("--columns", help=COLUMNS)
    parser.add_argument("--item-columns", help=ITEM_COLUMNS)
    _add_engine(parser)
    _add_stage(parser)


def _add_engine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("engine", "what the rows are prepared with; the result is the same")
    group.add_argument(
        "--engine",
        choices=ENGINES,
        default="auto",
        help="polars: in memory; duckdb: on disk; spark: on a cluster; auto: polars where the rows fit in memory",
    )
    group.add_argument("--memory-mb", type=int, default=MEMORY_MB, help="that DuckDB may take")
    group.add_argument("--master", default="", metavar="URL", help="of Spark: spark://HOST:7077, local[2]")


def _add_stage(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="the run directory")
    parser.add_argument("--config", type=Path, help="TOML file of settings; OUT/config.toml shows all of them")
    _add_set(parser)
    parser.add_argument("--tensorboard", type=Path, metavar="DIR", help="write learning curves that TensorBoard reads")
    parser.add_argument(
        "--refit", action="store_true", help="before export, train once more on everything with the chosen settings"
    )


def _add_training(parser: argparse.ArgumentParser) -> None:
    _add_stage(parser)
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="train in N processes of this machine, one for each GPU or some of its cores, as torchrun would start; "
        "the result is that of one",
    )


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="one setting; repeatable"
    )


def _add_search(parser: argparse.ArgumentParser) -> None:
    _add_stage(parser)
    _add_budget(parser)


def _add_budget(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("budget", "what the student may cost; giving one searches for the best that fits")
    group.add_argument("--budget-ms", type=float, help="encode, score and top K of one user, median, one core")
    group.add_argument("--budget-mb", type=float, help="encoder and item table, and search.runtime_mb")


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--interactions", type=Path, required=True, help="what was known: OUT/prepared/known.jsonl.gz")
    parser.add_argument("--heldout", type=Path, required=True, help="what came next: OUT/prepared/heldout.jsonl.gz")
    parser.add_argument("--columns", default="", help=COLUMNS)
    seen = parser.add_mutually_exclusive_group()
    seen.add_argument("--exclude-seen", action="store_true", default=None, help="never rank an item of the history")
    seen.add_argument("--include-seen", dest="exclude_seen", action="store_false", help="rank every item")


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a finished run directory")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the table as a page too")


def _add_refresh(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--store",
        metavar="URL",
        help="the service's store, as RETORT_REDIS_URL has it, or the data directory of an embedded one; without it "
        "what the environment says, as for the service",
    )
    parser.add_argument("--out", type=Path, required=True, help="directory of the run to go on from")
    parser.add_argument("--every", metavar="TIME", help="again and again: 30m, 6h, 1d; without it once")
    parser.add_argument("--full-every", type=int, default=0, metavar="N", help="train anew at every Nth; 0: never")
    parser.add_argument("--items", type=_place, help="the items file of now; without it new items have no title")
    _add_set(parser)


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--interactions", type=_place, help="your own file; without it a small world is simulated")
    parser.add_argument("--items", type=_place, help="optional: titles and attributes of its items")
    parser.add_argument("--columns", help=COLUMNS)
    parser.add_argument("--item-columns", help=ITEM_COLUMNS)
    parser.add_argument("--out", type=Path, default=Path(".demo"), help="directory to work in")
    parser.add_argument("--port", type=int, default=8000)
    _add_set(parser)
    parser.set_defaults(config=None, refit=False, tensorboard=None, budget_ms=None, budget_mb=None)  # as run has them
    parser.set_defaults(engine="auto", memory_mb=MEMORY_MB, master="")


COMMANDS: dict[str, tuple[str, AddOptions]] = {
    "simulate": (
        "Write interactions.csv.gz and items.csv of a made-up world. For trying and testing, not for claims.",
        _add_simulate,
    ),
    "run": ("Every stage, from the file of interactions to bundle/ and report.html.", _add_run),
    "prepare": ("Read, clean, order and split the files; say what was dropped and why.", _add_prepare),
    "teacher": ("Train the teacher.", _add_training),
    "distill": ("Save the soft labels, train the student with them and the same student without.", _add_training),
    "compress": ("Store the student's item table as compress.items says.", _add_stage),
    "export": ("Write bundle/, reopen it and compare it with torch.", _add_stage),
    "newcomers": ("Hold items out whole, and judge an encoder of new items by them.", _add_stage),
    "baselines": ("Rank what the models are compared with: popularity, item-kNN, EASE, iALS.", _add_stage),
    "report": ("Write metrics.json and report.html.", _add_stage),
    "search": (SEARCH, _add_search),
    "ablation": (
        "Train a student with every way to transfer, on top of the hard loss and on top of soft labels" + STUDY,
        _add_stage,
    ),
    "capacity": (
        "Train students of several widths alone and under each teacher, to see where distillation pays" + STUDY,
        _add_stage,
    ),
    "compression": (
        "Shrink the student in every way; measure each before and after it is taught on, through onnxruntime" + STUDY,
        _add_stage,
    ),
    "evaluate": ("Rank held-out events with a bundle, through onnxruntime. JSON on the last line.", _add_evaluate),
    "compare": (
        "Finished runs of the same data with different seeds as one table. JSON on the last line.",
        _add_compare,
    ),
    "refresh": ("Go on with what users did since, and publish the new model unless it may be worse.", _add_refresh),
    "demo": (
        "The whole way: simulate or take a file, train, distil, export, serve, print a curl and its answer.",
        _add_demo,
    ),
}
"""Every command in the order of --help: what it does, and what adds its options."""
