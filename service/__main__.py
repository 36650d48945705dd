"""The command line: python -m service [serve] --bundle DIR; publish DIR; ...

This module parses the arguments and calls the function of the command (see command), which returns the exit code: 0 for
yes and 1 for no. 2 stands for a wrong question or a missing part, whose message is one line on stderr; 130 for Ctrl-C.
"""

from service import environment  # noqa: F401, I001  # before numpy and prometheus_client

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from service import __version__
from service.command import experiment, rollout
from service.command.bench import bench
from service.command.compact import compact
from service.command.doctor import examine
from service.command.edge import edge
from service.command.keygen import keygen
from service.command.replay import replay
from service.command.serve import serve
from service.command.transfer import export_events, import_histories
from service.errors import RetortError
from service.experiment.record import KINDS
from service.logs import printable
from service.release.confinement import hide_from_same_user

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # mostly without the name of a file


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Without a command, serve."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or (given[0].startswith("-") and given[0] not in ("-h", "--help", "--version")):
        given.insert(0, "serve")
    arguments = _parser().parse_args(given)
    hide_from_same_user()  # keys and passwords stand in the environment
    before = os.umask(0o077)  # what is written, by this process and by those that it starts, is this user's alone
    try:
        status: int = arguments.run(arguments)
        return status
    except RetortError as exc:
        return _say_why(str(exc))
    except OSError as exc:
        if exc.errno in _FULL:
            return _say_why(f"{exc.strerror}: make room, and run the command again, or choose another place")
        if exc.filename is None:
            raise
        return _say_why(f"{exc.filename}: {exc.strerror}; choose another place, or make this one accessible")
    except KeyboardInterrupt:
        return 130
    finally:
        os.umask(before)


def _say_why(text: str) -> int:
    print(f"retort: {printable(text)}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="retort",
        description="Serve recommendations from a bundle. Settings: RETORT_ and the name, see the README.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"retort {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serving = commands.add_parser("serve", help="answer requests (the default)")
    _add_serving_flags(serving)
    # Descriptors inherited from the supervisor; None when alone.
    serving.add_argument("--listener-fd", type=int, help=argparse.SUPPRESS)
    serving.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)
    serving.add_argument("--store-kind", help=argparse.SUPPRESS)
    serving.add_argument("--rates-file", type=Path, help=argparse.SUPPRESS)
    serving.add_argument("--pin", action="store_true", help="serve --bundle whatever version the store calls live")
    serving.set_defaults(run=serve)
    _add_transfers(commands)
    compacting = commands.add_parser("compact", help="rewrite the embedded server's file without what was erased")
    compacting.set_defaults(run=compact)
    _add_bench(commands.add_parser("bench", help="find the rate at which a running service keeps a latency budget"))
    _add_releases(commands)
    made = commands.add_parser("keygen", help="make a key to sign what is published")
    made.add_argument("file", type=_path, metavar="FILE", help="the private key, a new file")
    made.set_defaults(run=keygen)
    _add_replay(commands.add_parser("replay", help="make a kept answer again, or with another version"))
    _add_edge(commands.add_parser("edge", help="write a static folder that recommends in a browser or in Node"))
    checked = commands.add_parser("doctor", help="look for what is wrong with machine, settings, store and bundle")
    _add_serving_flags(checked)
    checked.set_defaults(run=examine)
    for name in (
        "serve",
        "import",
        "export",
        "compact",
        "publish",
        "activate",
        "rollback",
        "status",
        "doctor",
        "replay",
    ):
        _add_data_dir(commands.choices[name])
    return parser


def _add_data_dir(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--data-dir",
        type=_optional_path,
        help="where the embedded server keeps its data (default ~/.local/share/retort)",
    )


def _add_transfers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    for name, text, run in (
        ("import", "load histories (JSON lines or CSV, also .gz) into the store", import_histories),
        ("export", "write the accepted events to a file, to retrain", export_events),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("file", type=_path, metavar="FILE")
        command.set_defaults(run=run)
    commands.choices["export"].add_argument(
        "--after", metavar="POSITION", help="only what came after; an export prints the position where it ended"
    )


def _add_serving_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--bundle", type=_optional_path, help="the bundle directory")
    command.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    command.add_argument("--port", type=int, help="port to listen on (default 8000; 0 takes a free one)")
    command.add_argument("--workers", type=int, default=1, help="processes that share the port (default 1)")


def _optional_path(text: str) -> Path | None:
    """Read a path; an empty one is none, as in the environment."""
    return Path(text) if text.strip() else None


def _path(text: str) -> Path:
    """Read a path that must be given: an empty one would mean the working directory."""
    if not text.strip():
        raise argparse.ArgumentTypeError("a path, not an empty text")
    return Path(text)


def _add_bench(command: argparse.ArgumentParser) -> None:
    command.add_argument("--url", default="http://127.0.0.1:8000", help="the service (default %(default)s)")
    command.add_argument("--key", help="an API key (default: the first of RETORT_API_KEYS)")
    command.add_argument("--budget-ms", type=_between(1, 1000), default=20, help="default %(default)s")
    command.add_argument("--users", type=Path, help="ask for these: user ids, one a line, or JSON lines with user_id")
    command.add_argument("--seconds", type=_between(1, 600), default=5, help="of each rate (default %(default)s)")
    command.add_argument("--max-rate", type=_between(1, 1_000_000), default=100_000, help="offer no more")
    command.add_argument("--connections", type=_between(1, 10_000), default=256, help="at most (default %(default)s)")
    command.add_argument("-k", type=_between(1, 200), default=10, help="items asked for (default %(default)s)")
    command.add_argument("--plot", type=Path, default=Path("bench.png"), help="a PNG (default %(default)s)")
    command.set_defaults(run=bench)


def _add_replay(command: argparse.ArgumentParser) -> None:
    command.add_argument("recommendation_id", metavar="RECOMMENDATION_ID")
    command.add_argument("--version", help="another version (default: the one that gave the answer)")
    command.add_argument("--bundle", type=_optional_path, help="a directory with one of them that the store lacks")
    command.add_argument("--json", action="store_true", help="JSON instead of the text")
    command.set_defaults(run=replay)


def _add_edge(command: argparse.ArgumentParser) -> None:
    command.add_argument("bundle", type=_path, metavar="BUNDLE")
    command.add_argument("out", type=_path, metavar="OUT", help="a new folder, or one that this command wrote")
    command.add_argument(
        "--runtime", type=_optional_path, metavar="DIR", help="where onnxruntime-web lies (default: npm fetches it)"
    )
    command.set_defaults(run=edge)


def _between(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{least} to {most}, not {text!r}")
        return int(text)

    return number


def _add_releases(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    publish = commands.add_parser("publish", help="upload a bundle into the store and make it live")
    publish.add_argument("bundle", type=_path, metavar="DIR")
    publish.add_argument("--no-activate", action="store_true", help="upload only")
    publish.add_argument(
        "--if-live",
        metavar="VERSION",
        help="make it live only where this one still is (none: where none is), and nothing is tried on users beside it",
    )
    publish.add_argument(
        "--as", dest="kind", choices=KINDS, help="try it beside the live version: aside, or on a share of the users"
    )
    publish.add_argument(
        "--share", type=float, metavar="PERCENT", help="of the users, or of the requests for a shadow (default 5)"
    )
    publish.add_argument("--signing-key", type=_optional_path, metavar="FILE", help="sign with this private key")
    publish.set_defaults(run=rollout.publish)
    activate = commands.add_parser("activate", help="make a published version live")
    activate.add_argument("version", metavar="VERSION")
    activate.set_defaults(run=rollout.activate)
    rollback = commands.add_parser("rollback", help="make the version before the live one live again")
    rollback.set_defaults(run=rollout.rollback)
    status = commands.add_parser("status", help="say which versions there are, which is live, who serves what")
    status.set_defaults(run=rollout.show_status)
    _add_agreement(commands.add_parser("agreement", help="tell how well the live model and its teacher agree"))
    promote = _add_experiment(commands)
    for command in (publish, activate, rollback, promote):
        command.add_argument("--wait", type=float, default=0.0, metavar="S", help="wait so long for all to serve it")


def _add_agreement(command: argparse.ArgumentParser) -> None:
    for name, text in (
        ("live", "the share of their ten best that is the same, on what users do now"),
        ("offline", "the same on what the model's own run held out"),
        ("least", "below this share the model has drifted from its teacher"),
    ):
        command.add_argument(name, type=_share, metavar=name.upper(), help=text)
    command.set_defaults(run=rollout.note_agreement)
    _add_data_dir(command)


def _share(text: str) -> float:
    """Read a share from 0 to 1."""
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"0 to 1, not {text!r}")
    return share


def _add_experiment(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    """Add the command experiment, with three of its own; return the last one, promote."""
    parent = commands.add_parser(
        "experiment",
        help="say what the version beside the live one comes to; end it, or make it live",
        description=experiment.ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parent.add_subparsers(required=True, metavar="status|stop|promote")
    shown = kinds.add_parser("status", help="count what has come, and say what it comes to")
    shown.add_argument("--json", action="store_true", help="JSON instead of the table")
    shown.add_argument(
        "--lift", type=_lift, default=5.0, metavar="PERCENT", help="say how many users find it (default %(default)g)"
    )
    shown.set_defaults(run=experiment.show_experiment)
    stopped = kinds.add_parser("stop", help="end it: the live version answers everybody")
    stopped.set_defaults(run=experiment.stop)
    promoted = kinds.add_parser("promote", help="end it, and make its version live where the live one still is")
    promoted.set_defaults(run=experiment.promote)
    for command in (shown, stopped, promoted):
        _add_data_dir(command)
    return promoted


def _lift(text: str) -> float:
    """Read a relative lift in percent."""
    try:
        lift = float(text)
    except ValueError:
        lift = 0.0
    if not (-100 < lift <= 1000 and lift != 0):
        raise argparse.ArgumentTypeError(f"percent above -100, at most 1000, and not 0; not {text!r}")
    return lift


if __name__ == "__main__":
    sys.exit(main())
