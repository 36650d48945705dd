"""The import rules, kept by reading the source: directions, cycles, and where the big libraries may be named."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("service", "training")
MODULES = {
    f"{package}.{path.stem}": ast.parse(path.read_text())
    for package in PACKAGES
    for path in (ROOT / package).glob("*.py")
}
HOMES = {
    "redis": {"service.store", "service.address"},
    "onnxruntime": {"service.session", "training.exported"},
    "faiss": {"service.codes"},
    "fastapi": {"service.api", "service.app"},
    "onnx": {"training.graph"},
    "pydantic_settings": {"service.settings"},
    "safetensors": {"training.checkpoint"},
    "matplotlib": {"training.plot"},
    "implicit": {"training.baseline"},
    "scipy": {"training.baseline", "training.linear", "training.variety"},
    "rich": {"training.progress"},
}
STAGES = {f"training.{name}" for name in ("teacher", "distill", "compress", "export", "report")}
SEES_SETTINGS = {"service.__main__", "service.app", "service.settings"}
SEES_CONFIG = {"training.__main__", "training.config", "training.directory", "training.run", "training.study"}


def imported(tree):
    """Yield dotted names, with `from a import b` as a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


GRAPH = {
    name: {other for other in imported(tree) if other in MODULES and other != name} for name, tree in MODULES.items()
}


def test_service_never_imports_training_or_torch():
    for name, tree in MODULES.items():
        heads = {other.split(".")[0] for other in imported(tree)}
        assert not (name.startswith("service.") and heads & {"training", "torch", "polars"}), name


def test_training_imports_of_service_only_the_bundle():
    for name, tree in MODULES.items():
        if name.startswith("training."):
            ours = {other for other in imported(tree) if other.split(".")[0] == "service"}
            assert all(other.startswith("service.bundle") for other in ours), (name, ours)


def test_the_bundle_needs_the_standard_library_and_numpy():
    allowed = {"numpy", "service", *__import__("sys").stdlib_module_names}

    for name in ("service.bundle", "service.item", "service.manifest"):
        assert {other.split(".")[0] for other in imported(MODULES[name])} <= allowed, name
    assert GRAPH["service.bundle"] == {"service.item", "service.manifest"}
    assert GRAPH["service.item"] == {"service.manifest"}
    assert GRAPH["service.manifest"] == set()


def test_there_are_no_cycles():
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            path.append(name)
            for other in sorted(GRAPH[name]):
                visit(other)
            path.pop()
            done.add(name)

    for name in sorted(GRAPH):
        visit(name)


def test_stages_talk_through_the_run_directory_not_by_import():
    for stage in STAGES:
        assert not GRAPH[stage] & STAGES, stage


@pytest.mark.parametrize("library", HOMES)
def test_a_big_library_is_named_in_few_modules(library):
    users = {name for name, tree in MODULES.items() if any(other.split(".")[0] == library for other in imported(tree))}

    assert users <= HOMES[library]


def test_only_the_composition_roots_see_the_settings():
    assert {name for name, others in GRAPH.items() if "service.settings" in others} <= SEES_SETTINGS
    assert {name for name, others in GRAPH.items() if "training.config" in others} <= SEES_CONFIG


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
