"""The documentation names every command, setting, endpoint, reason, metric and term that the code has, and no other."""

import contextlib
import io
import json
import re
import shutil
import subprocess
import tomllib
from typing import get_args

import pytest

from service.__main__ import _parser as service_parser
from service.errors import REASONS
from service.http.answer import Quality
from service.metrics import Metrics
from service.request.event import Event
from service.request.recommend import ListRequest, RecommendRequest
from service.request.similar import SimilarRequest
from service.settings import Settings
from service.wire.connection import CODES
from service.wire.reply import STATUS
from tests.contract.document import DOCUMENTS, ROOT
from tests.contract.test_imports import FACE, HOMES, MAY_USE, SEES_THE_BUNDLE, STARTS_THE_SERVICE
from tests.service.running import wait_for
from training.distillation.term import TERMS
from training.errors import InputError
from training.run.config_file import dump_config, load_config
from training.run.parser import build_parser as training_parser
from training.study.compression import VARIANTS

README, CONTRIBUTING = DOCUMENTS["README.md"], DOCUMENTS["CONTRIBUTING.md"]
SERVICE, TRAINING = DOCUMENTS["service/README.md"], DOCUMENTS["training/README.md"]
OURS = ("README.md", "service/README.md", "training/README.md", "CONTRIBUTING.md")
PARSERS = {"service": service_parser(), "training": training_parser()}
CONFIG = tomllib.loads(dump_config(load_config(None)))
FOLDERS = ("service", "training", "tests", "docker", ".ci")


def commands_of(package):
    """Return the commands of a package: name -> parser."""
    return next(action for action in PARSERS[package]._actions if action.choices and not action.option_strings).choices


def options_of(package):
    """Return the options of a package's commands, and of the commands that a command has."""
    parsers = list(commands_of(package).values())
    for parser in parsers:
        parsers += [own for a in parser._actions if isinstance(a.choices, dict) for own in a.choices.values()]
    return {option for parser in parsers for action in parser._actions for option in action.option_strings}


def families():
    return {name_of(family): family for family in Metrics("0").registry.collect()}


def name_of(family):
    return f"{family.name}_total" if family.type == "counter" else family.name


def choices_of(setting):
    """Return the words that a setting of training takes, as its refusal lists them."""
    with pytest.raises(InputError, match=r"must (be one|list some) of (.+), not") as caught:
        load_config(None, [f"{setting}=nothing"])
    return re.search(r" of (.+), not", str(caught.value))[1].split(", ")


def test_every_setting_of_the_service_is_named_with_its_default_and_no_other():
    rows = SERVICE.rows("setting")

    expected = {}
    for name, field in Settings.model_fields.items():
        default = field.default
        shown = default.get_secret_value() if hasattr(default, "get_secret_value") else default
        shown = int(shown) if isinstance(shown, bool) else shown
        expected[f"RETORT_{name.upper()}"] = f"`{shown}`" if shown not in (None, "") else ""
    assert {name: cells[0] for name, cells in rows.items()} == expected


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_document_names_a_setting_of_the_service_that_does_not_exist(name):
    settings = {f"RETORT_{field.upper()}" for field in Settings.model_fields}

    assert set(re.findall(r"RETORT_[A-Z0-9_]*[A-Z0-9]", DOCUMENTS[name].text)) <= settings


def test_every_setting_of_training_is_named_with_its_default_and_no_other():
    expected = {f"{section}.{key}": value for section, keys in CONFIG.items() for key, value in keys.items()}

    named = {}
    for name, (cell, _) in TRAINING.rows("setting").items():
        text, default = cell.strip("`"), expected.get(name)
        named[name] = text if isinstance(default, str) else tomllib.loads(f"value = {text}")["value"]
    assert named == expected


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_setting_of_training_in_the_text_exists(name):
    for span in DOCUMENTS[name].spans():
        section, dot, key = span.partition("=")[0].partition(".")
        if dot and section in CONFIG:
            assert key in CONFIG[section], span


def test_every_metric_is_named_with_its_labels_and_no_other():
    found = families()
    labels = {
        name: {label for sample in family.samples for label in sample.labels} - {"le"} for name, family in found.items()
    }

    named = {name: set(filter(None, cells[0].split(", "))) for name, cells in SERVICE.rows("metric").items()}
    assert named == labels
    assert set(re.findall(r"`(retort_[a-z_]+)", SERVICE.text)) == set(found)


def test_label_values_are_those_of_the_code():
    found = families()

    for (metric, label), (cell,) in SERVICE.pairs("metric").items():
        values = {sample.labels[label] for sample in found[metric].samples if label in sample.labels}
        assert set(re.findall(r"`(\w+)`", cell)) == values, metric


@pytest.mark.parametrize("package", PARSERS)
def test_every_command_has_its_row(package):
    rows = DOCUMENTS[f"{package}/README.md"].rows("command")

    named = {name.split()[3] for name in rows if name.startswith(f"python -m {package} ")}
    assert named == set(commands_of(package))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_and_option_in_the_text_exists(name):
    text = DOCUMENTS[name].text
    options = {option for package in PARSERS for option in options_of(package)}

    for package, command in re.findall(r"python -m (service|training) ([a-z]+)", text):
        assert command in commands_of(package), command
    for span in DOCUMENTS[name].spans():
        assert not span.startswith("--") or re.match(r"--[a-z-]+", span)[0] in options, span


def written_commands():
    return [(name, words) for name in DOCUMENTS for words in DOCUMENTS[name].commands()]


@pytest.mark.parametrize(
    ("name", "words"), written_commands(), ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_every_command_of_a_code_block_parses(name, words):
    package, given = words[2], words[3:]
    if package == "service" and (not given or given[0].startswith("-")):
        given = ["serve", *given]
    said = io.StringIO()

    with contextlib.redirect_stderr(said):
        try:
            arguments = PARSERS[package].parse_args(given)
        except SystemExit:
            pytest.fail(f"{name}: {' '.join(words)}: {said.getvalue()}")

    assert load_config(None, getattr(arguments, "set", []))


def test_commands_are_found_in_every_document_that_has_some():
    assert {name for name, _ in written_commands()} >= {"README.md", "service/README.md", "training/README.md"}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_make_target_exists(name):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))

    assert set(re.findall(r"(?:^ {4}|`)make ([a-z]+)", DOCUMENTS[name].text, flags=re.MULTILINE)) <= targets


def test_every_endpoint_has_its_row(shared_service):
    paths = shared_service.client.get("/openapi.json").json()["paths"]

    served = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    named = {tuple(row.split()) for row in SERVICE.rows("route")}
    assert served <= named
    assert named - served == {("GET", "/docs"), ("GET", "/")}


@pytest.mark.parametrize(
    ("heading", "model"), [("field", RecommendRequest), ("event", Event), ("similar", SimilarRequest)]
)
def test_every_field_of_a_request_is_named_with_its_default(heading, model):
    shared = set(ListRequest.model_fields) if heading == "similar" else set()
    fields = {name: field for name, field in model.model_fields.items() if name not in shared}
    defaults = {name: field.get_default(call_default_factory=True) for name, field in fields.items()}
    required = {name for name, field in fields.items() if field.is_required()}

    expected = {
        name: "" if name in required or value is None else f"`{json.dumps(value)}`" for name, value in defaults.items()
    }
    assert {name: cells[0] for name, cells in SERVICE.rows(heading).items()} == expected


def test_levels_and_reasons_are_named_in_their_order():
    assert tuple(SERVICE.rows("level")) == get_args(Quality.model_fields["level"].annotation)
    assert tuple(SERVICE.rows("reason")) == REASONS


def test_every_error_that_is_raised_has_its_row_with_its_status():
    source = "".join(path.read_text() for path in (ROOT / "service").rglob("*.py"))
    raised = set(re.findall(r'RequestError\(\s*"(\w+)"', source)) | {"not_found", "method_not_allowed"}
    raised |= {"malformed_request", *CODES.values()}

    assert {code: int(cells[0]) for code, cells in SERVICE.rows("code").items()} == {c: STATUS[c] for c in raised}


def test_every_term_teacher_split_and_variant_is_named():
    terms = {name: float(cells[0]) for name, cells in TRAINING.rows("term").items()}

    assert terms == {name: term.weight for name, term in TERMS.items()}
    assert list(TRAINING.rows("teacher")) == choices_of("teacher.members")
    assert list(TRAINING.rows("`split.test`")) == choices_of("split.test")
    assert set(VARIANTS) <= set(TRAINING.spans())


def test_everything_in_a_run_directory_is_named(finished_run):
    named = {name for cell in TRAINING.rows("in `--out`") for name in re.findall(r"[\w.]+", cell)}

    assert {path.name for path in finished_run.iterdir()} <= named


def matches(documented, answer):
    """Whether an answer has the documented one's fields and types; an empty list matches any."""
    if isinstance(documented, dict) and isinstance(answer, dict):
        return documented.keys() == answer.keys() and all(matches(documented[key], answer[key]) for key in answer)
    if isinstance(documented, list) and isinstance(answer, list):
        return not documented or (bool(answer) and all(matches(documented[0], each) for each in answer))
    kinds = [float if type(value) is int else type(value) for value in (documented, answer)]
    return kinds[0] is kinds[1]


@pytest.mark.skipif(shutil.which("curl") is None, reason="NOT CHECKED: curl is not installed")
@pytest.mark.parametrize("name", ["README.md", "service/README.md"])
def test_every_curl_gets_an_answer_like_the_documented_one(name, shared_service):
    examples = list(DOCUMENTS[name].examples())
    assert examples

    for words, documented in examples:
        command = [word.replace("http://127.0.0.1:8000", shared_service.url) for word in words]
        expected = json.loads(documented)

        def is_as_documented(command=command, expected=expected):
            answer = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
            same_quality = name == "README.md" or answer.get("quality") == expected.get("quality")
            return same_quality and matches(expected, answer)

        if "DELETE" in command or any(word.endswith("/events") for word in command):
            assert is_as_documented(), words
        else:
            assert wait_for(is_as_documented), words  # a cached embedding is written after the answer


def test_readme_is_short_and_has_no_hole():
    lines = README.text.splitlines()

    assert len(lines) <= 150
    assert max(map(len, lines)) <= 120
    assert not re.search(r"\b[A-Z]+_TABLE\b", README.text)


@pytest.mark.parametrize("name", OURS)
def test_lines_of_text_are_short(name):
    assert [line for line in DOCUMENTS[name].text.splitlines() if len(line) > 120 and not line.startswith("|")] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_somewhere(name):
    here = DOCUMENTS[name]

    for path, anchor in here.links():
        target = (here.path.parent / path).resolve() if path else here.path
        assert target.exists(), path
        if anchor:
            assert anchor in DOCUMENTS[str(target.relative_to(ROOT))].anchors(), (path, anchor)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_path_that_is_named_exists(name):
    here = DOCUMENTS[name]
    words = {span.split()[0].partition(":")[0] for span in here.spans()}
    in_code = {path for block in here.blocks() for path in re.findall(r"(?<![\w./-])[\w.]+/[\w./-]*\w", block)}

    for word in words | in_code:
        if "/" in word and word.split("/")[0] in FOLDERS:
            assert list(ROOT.glob(re.sub(r"<\w+>", "*", word).rstrip("/"))), word
        elif re.fullmatch(r"[A-Za-z][\w-]*\.(py|md|yml)", word):
            assert (here.path.parent / word).exists() or (ROOT / word).exists(), word


def test_tree_of_the_readme_names_every_folder():
    block = next(block for block in README.blocks() if block.startswith("service/"))
    named = [line.split()[0] for line in block.splitlines()]

    folders = [path.parent for package in PARSERS for path in (ROOT / package).glob("**/__init__.py")]
    tests = [ROOT / "tests" / name for name in ("service", "training", "contract", "bench")]
    assert sorted(named) == sorted(f"{path.relative_to(ROOT)}/" for path in [*folders, *tests, ROOT / "docker"])


def test_contributing_has_the_table_of_who_may_import_whom():
    for package, arrows in MAY_USE.items():
        rows = CONTRIBUTING.rows(package)

        named = {folder: set(re.findall(r"`([\w.]+)`", cells[0])) for folder, cells in rows.items()}
        also = {name: {FACE} for name in SEES_THE_BUNDLE} if package == "training" else {}
        for name, module in STARTS_THE_SERVICE.items() if package == "training" else ():
            also[name] = also.get(name, set()) | {module}
        assert named == {name: arrows[name] | also.get(name, set()) for name in arrows}
        assert list(rows) == list(arrows)


def test_contributing_says_where_each_large_library_lives():
    named = {
        library: {f"{package}.{home.strip('`')}" for package, home in zip(MAY_USE, cells, strict=True) if home}
        for library, cells in CONTRIBUTING.rows("library").items()
    }

    assert named == HOMES


def test_contributing_lists_every_benchmark():
    scripts = {f"tests/bench/{path.name}" for path in (ROOT / "tests" / "bench").glob("*.py")}

    assert set(CONTRIBUTING.rows("script")) == scripts - {"tests/bench/rig.py"}
