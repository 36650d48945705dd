"""The sizes of the house: functions, modules and folders stay small enough to be read at once."""

import ast
import dataclasses
import importlib
import inspect

import pytest

from tests.contract.test_imports import FOLDERS, MODULES, ROOT

MOST_LINES, MOST_MODULE_LINES, MOST_MODULES, MOST_ARGUMENTS = 45, 350, 15, 6
FIXED_BY_OTHERS = {"training.loss.logits.forward"}
"""Functions whose arguments another library decides: torch's autograd calls forward with everything that it needs."""
FUNCTIONS = [
    (f"{name}.{node.name}", node)
    for name, tree in MODULES.items()
    for node in ast.walk(tree)
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
]


def test_functions_are_short():
    long = {name: node.end_lineno - node.lineno + 1 for name, node in FUNCTIONS}

    assert not {name: lines for name, lines in long.items() if lines > MOST_LINES}


def test_functions_take_few_arguments():
    taken = {
        name: sum(argument.arg not in ("self", "cls") for argument in [*node.args.args, *node.args.kwonlyargs])
        for name, node in FUNCTIONS
        if name not in FIXED_BY_OTHERS
    }

    assert not {name: n for name, n in taken.items() if n > MOST_ARGUMENTS}


@pytest.mark.parametrize("package", FOLDERS)
def test_modules_and_folders_are_small(package):
    for path in (ROOT / package).rglob("*.py"):
        assert len(path.read_text().splitlines()) <= MOST_MODULE_LINES, path
    for folder in FOLDERS[package]:
        modules = [path for path in (ROOT / package / folder).glob("*.py") if path.name != "__init__.py"]
        assert len(modules) <= MOST_MODULES, folder


def test_every_module_says_what_it_is_for():
    for name, tree in MODULES.items():
        if tree.body:
            assert ast.get_docstring(tree), name


def test_what_holds_arrays_is_compared_by_identity():
    """A generated == of a dataclass compares its arrays, which raises wherever they differ in a number."""
    modules = [importlib.import_module(name) for name in MODULES if not name.endswith("__main__")]
    classes = {each for module in modules for _, each in inspect.getmembers(module, inspect.isclass)}
    made_here = [each for each in classes if dataclasses.is_dataclass(each) and each.__module__ in MODULES]

    def holds_arrays(made):
        return any(
            word in str(each.type) for each in dataclasses.fields(made) for word in ("ndarray", "NDArray", "Tensor")
        )

    assert len(made_here) > 100
    assert not [each for each in made_here if each.__dataclass_params__.eq and holds_arrays(each)]
