"""The import rules, kept by reading the source: directions, cycles, and where the big libraries may be named."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("service", "training")
FACE, CLIENT = "service.bundle", "service.client"


def name_of(path):
    """Return the dotted name of a module's file; a folder's __init__ is the folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    name_of(path): ast.parse(path.read_text())
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
FOLDERS = {package: {path.parent.name for path in (ROOT / package).glob("*/__init__.py")} for package in PACKAGES}

MAY_USE = {
    "service": {
        "bundle": set(),
        "store": set(),
        "bench": set(),
        "client": set(),
        "search": {"bundle"},
        "user": {"store", "bundle"},
        "catalogue": {"search", "bundle"},
        "item": {"catalogue", "store", "bundle"},
        "model": {"catalogue", "search", "bundle"},
        "tracing": set(),
        "recommendation": {"catalogue", "model", "search", "user", "bundle", "tracing"},
        "experiment": {"user", "store", "bundle"},
        "release": {"user", "experiment", "recommendation", "model", "search", "store", "bundle"},
        "wire": {"tracing"},
        "request": set(),
        "scenario": {"store", "request"},
        "access": {"wire", "tracing"},
        "http": {
            "wire", "request", "scenario", "access", "release", "experiment", "recommendation", "model", "catalogue",
            "item", "user", "tracing",
        },
        "replay": {
            "wire", "request", "http", "release", "recommendation", "model", "catalogue", "item", "search", "user",
            "store", "bundle",
        },
        "health": {"release", "store"},
        "composition": {
            "wire", "access", "scenario", "http", "release", "replay", "experiment", "recommendation", "model",
            "catalogue", "item", "user", "store", "bundle",
        },
        "command": {
            "composition", "wire", "access", "http", "release", "replay", "experiment", "user", "store", "bundle",
            "bench",
        },
    },
    "training": {
        "loss": set(),
        "file": set(),
        "data": {"file"},
        "engine": {"data", "file"},
        "parallel": {"loss"},
        "model": {"parallel", "data"},
        "evaluation": {"model", "parallel", "loss", "data"},
        "newcomer": {"evaluation", "model", "data"},
        "export": {"evaluation", "model", "data"},
        "teacher": {"export", "evaluation", "model", "parallel", "loss", "data"},
        "distillation": {"teacher", "evaluation", "model", "parallel", "loss", "data"},
        "study": {"distillation", "export", "evaluation", "model", "data"},
        "report": {"study", "teacher", "export", "evaluation", "model", "data"},
        "run": {
            "report", "study", "distillation", "teacher", "newcomer", "export", "evaluation", "model", "engine",
            "data", "file", "loss",
        },
        "loop": {"run", "distillation", "teacher", "export", "evaluation", "model", "data", "file"},
    },
}  # fmt: skip
"""Which folder may import which, beside the files at its package's root. The table of CONTRIBUTING.md."""
SEES_THE_BUNDLE = {"data", "evaluation", "newcomer", "export", "report", "run", "loop"}
"""The folders of training that may import service.bundle."""
STARTS_THE_SERVICE = {"run": "service.child", "loop": "service.child"}
"""The folders of training that start the service, or training again, as a process, and what gives the command."""
ROOT_FILES = {
    "service": {"service", "service.environment", "service.errors", "service.logs", "service.metrics",
                "service.onnx_session", "service.spread", "service.child", "service.private_directory", "service.task"},
    "training": {"training", "training.errors", "training.machine", "training.progress", "training.ranks",
                 "training.stage"},
}  # fmt: skip
"""What stands at a package's root and may be imported by every folder of it."""
HOMES = {
    "redis": {"service.store"},
    "cryptography": {"service.release"},
    "onnxruntime": {"service.onnx_session", "training.export"},
    "faiss": {"service.search"},
    "fastapi": {"service.http"},
    "onnx": {"training.export"},
    "pydantic_settings": {"service.settings"},
    "safetensors": {"training.model"},
    "matplotlib": {"service.bench", "training.report"},
    "implicit": {"training.evaluation"},
    "rich": {"training.progress"},
    "httpx": {"service.client"},
    "opentelemetry": {"service.tracing"},
}
"""The folder, or the file at the root, where a library is named; in service and in training at most one each."""
SEES_SETTINGS = {"service.app", "service.composition", "service.command"}
COMPOSES = {"service.library", *SEES_SETTINGS}
"""What puts the folders together. Those that see settings may import it."""
SEES_CONFIG = {"training.command", "training.run", "training.loop"}


def imported(tree):
    """Yield dotted names, with `from a import b` as a and a.b, and what import_module() is given."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield next(part.value for part in ast.walk(node.args[0]) if isinstance(part, ast.Constant))


IMPORTED = {name: list(imported(tree)) for name, tree in MODULES.items()}
GRAPH = {name: {other for other in others if other in MODULES and other != name} for name, others in IMPORTED.items()}


def folder_of(name):
    """Return (package, folder) of a module; the folder is None at the package's root."""
    package, *rest = name.split(".")
    return package, rest[0] if rest and rest[0] in FOLDERS[package] else None


def home_of(name):
    """Return the folder that a module lies in, by its dotted name, or the module itself at a package's root."""
    package, folder = folder_of(name)
    return name if folder is None else f"{package}.{folder}"


def cycle_in(graph):
    """Return a cycle as text, or None."""
    done, path = set(), []

    def visit(name):
        if name in path:
            return " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            path.append(name)
            for other in sorted(graph[name]):
                if found := visit(other):
                    return found
            path.pop()
            done.add(name)
        return None

    return next(filter(None, map(visit, sorted(graph))), None)


def test_every_folder_was_read_and_has_its_line_in_the_table():
    assert len(MODULES) > 100
    for package in PACKAGES:
        assert FOLDERS[package] == set(MAY_USE[package])
        for path in (ROOT / package).rglob("*.py"):
            assert len(path.relative_to(ROOT).parts) <= 3, f"{path}: folders are one deep"


def test_a_folder_imports_only_what_the_table_allows():
    wrong = []
    for name, others in GRAPH.items():
        package, folder = folder_of(name)
        if folder is None:
            continue
        for other in others:
            their_package, theirs = folder_of(other)
            if their_package != package:
                is_allowed = package == "training" and (
                    (folder in SEES_THE_BUNDLE and other == FACE) or other == STARTS_THE_SERVICE.get(folder)
                )
            elif theirs is None:
                is_composed = home_of(name) in SEES_SETTINGS and other in {"service.settings", *COMPOSES}
                is_allowed = is_composed or other in ROOT_FILES[package]
            else:
                is_allowed = theirs == folder or theirs in MAY_USE[package][folder]
            if not is_allowed:
                wrong.append(f"{name} imports {other}")
    assert not wrong, "\n".join(wrong)


def test_files_at_the_root_that_every_folder_may_import_import_no_folder():
    for names in ROOT_FILES.values():
        for name in names & set(MODULES):
            assert GRAPH[name] <= names, (name, GRAPH[name] - names)


def test_service_never_imports_training_or_torch():
    for name, others in IMPORTED.items():
        heads = {other.split(".")[0] for other in others}
        assert not (name.startswith("service") and heads & {"training", "torch", "polars"}), name


def test_training_imports_of_service_only_the_face_of_the_bundle_and_what_starts_it():
    for name, tree in MODULES.items():
        if name.startswith("training"):
            ours = {node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
            modules = {node.module for node in ours} | set(IMPORTED[name]) & set(MODULES)
            allowed = {FACE, STARTS_THE_SERVICE.get(folder_of(name)[1])}
            assert {m for m in modules if m.split(".")[0] == "service"} <= allowed, name


def test_only_the_face_of_the_bundle_is_imported_from_outside():
    for name, others in GRAPH.items():
        if home_of(name) != FACE:
            assert not {other for other in others if other.startswith(f"{FACE}.")}, name


@pytest.mark.parametrize(("face", "package"), [(FACE, "numpy"), (CLIENT, "httpx")])
def test_what_others_install_alone_needs_the_standard_library_and_one_package(face, package):
    allowed = {package, *sys.stdlib_module_names}

    for name, others in IMPORTED.items():
        if home_of(name) == face:
            foreign = {other for other in others if other.split(".")[0] not in allowed}
            assert all(other == face or other.startswith(f"{face}.") for other in foreign), (name, foreign)


def test_only_the_faces_of_bundle_and_client_hand_names_on():
    for name, tree in MODULES.items():
        _, folder = folder_of(name)
        if folder is not None and name == home_of(name) and name not in (FACE, CLIENT):
            assert not tree.body, f"{name}/__init__.py is empty, so that importing one file imports no other"


def test_there_are_no_cycles():
    assert cycle_in({name: others - {home_of(name)} for name, others in GRAPH.items()}) is None


def test_folders_have_a_direction():
    folders = {}
    for name, others in GRAPH.items():
        if folder_of(name)[1] is not None:
            theirs = {home_of(o) for o in others if folder_of(o)[1] is not None}
            folders.setdefault(home_of(name), set()).update(theirs - {home_of(name)})
    assert cycle_in(folders) is None


def test_stages_talk_through_the_run_directory_not_by_import():
    """A stage is a file of training.run's pipeline; what it needs of another it reads from the directory."""
    assert not GRAPH["training.report.page"] & {"training.distillation.student", "training.teacher.transformer"}
    assert not {other for other in GRAPH["training.export.export"] if "distillation" in other or "teacher" in other}


@pytest.mark.parametrize("library", HOMES)
def test_a_big_library_is_named_in_one_folder(library):
    users = {name for name, others in IMPORTED.items() if any(other.split(".")[0] == library for other in others)}

    assert {home_of(name) for name in users} == HOMES[library]


def test_only_the_composition_roots_see_the_settings():
    def seen_by(module):
        return {home_of(name) for name, others in GRAPH.items() if module in others}

    assert seen_by("service.settings") <= SEES_SETTINGS
    assert seen_by("training.run.config") <= SEES_CONFIG


def test_imports_stand_at_the_top():
    for name, tree in MODULES.items():
        inner = [
            node.lineno
            for outer in ast.walk(tree)
            if isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            for node in ast.walk(outer)
            if isinstance(node, (ast.Import, ast.ImportFrom))
        ]
        assert not inner, (name, inner)


def test_nothing_unpickles_or_evaluates():
    forbidden = {"pickle", "eval", "exec", "marshal", "shelve"}
    for name, tree in MODULES.items():
        assert not forbidden & set(imported(tree)), name
        calls = {
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not forbidden & calls, name
