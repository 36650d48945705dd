"""The settings as a file: defaults, then a TOML file, then --set section.key=value; written back to config.toml.

An unknown section or setting is an error that lists the known ones, because a setting that is accepted and does nothing
misleads whoever wrote it.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from training.distillation.term import check_terms, parse_terms
from training.errors import InputError
from training.run.config import Config, parse_candidates, parse_names, parse_numbers, pupil_of
from training.teacher.registry import KINDS


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """Resolve defaults, then the TOML file, then overrides like "teacher.dim=96". Raises InputError."""
    values = _read_toml(path) if path else {}
    for override in overrides:
        section, key, value = _parse_override(override)
        values.setdefault(section, {})[key] = value
    return build_config(values)


def build_config(values: Mapping[str, Any]) -> Config:
    """Build a Config from {section: {key: value}}. Raises InputError that words the first mistake."""
    try:
        config = Config(**values)
    except ValidationError as exc:
        raise InputError(_refusal(exc.errors()[0])) from exc
    _check_together(config)
    return config


def dump_config(config: Config) -> str:
    """Return the config as TOML."""
    lines: list[str] = []
    for section, values in asdict(config).items():
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items()), ""]
    return "\n".join(lines)


def differing_settings(ours: Config, theirs: Config) -> list[str]:
    """Return the names of the settings in which two configs differ."""
    first, second = asdict(ours), asdict(theirs)
    return [f"{section}.{key}" for section, own in first.items() for key in own if own[key] != second[section][key]]


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise InputError(f"{path}: no such file; --config takes a TOML file") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise InputError(f"{path}: not TOML: {exc}") from exc


def _parse_override(text: str) -> tuple[str, str, Any]:
    name, equals, raw = text.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and key):
        raise InputError(f"--set {text!r}: write section.key=value, for example --set teacher.dim=96")
    try:
        return section, key, tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return section, key, raw.strip()


def _check_together(config: Config) -> None:
    """Raise InputError where settings do not fit one another."""
    if not 1 <= config.split.fold <= config.split.folds:
        raise InputError(f"split.fold must be from 1 to split.folds={config.split.folds}, not {config.split.fold}")
    sizes = {
        "teacher": (config.teacher.dim, config.teacher.heads),
        "student": (config.student.dim, config.student.heads),
    }
    for section, (dim, heads) in sizes.items():
        if dim % heads:
            raise InputError(f"{section}.dim {dim} must be a multiple of {section}.heads {heads}")
    tried = {"search": parse_candidates(config), "capacity": [parse_names(config, "student.blocks")]}
    for section, candidates in tried.items():
        for dim in parse_numbers(config, f"{section}.dims"):
            if dim % config.student.heads and any("attention" in blocks for blocks in candidates):
                raise InputError(f"{section}.dims: {dim} is no multiple of student.heads {config.student.heads}")
    check_terms(parse_terms(config.distill.terms), pupil_of(config))
    if any(KINDS[name].needs_texts for name in parse_names(config, "teacher.members")) and not config.teacher.text:
        raise InputError("teacher.members has text: set teacher.text to the directory of a Hugging Face encoder")
    if config.ablation.terms:
        parse_terms(config.ablation.terms, "ablation.terms")


def _refusal(error: Mapping[str, Any]) -> str:
    """Say what pydantic refused in the words of the file. error: one of ValidationError.errors()."""
    section, *key = error["loc"]
    name, kind = ".".join(error["loc"]), error["type"]
    if kind == "unexpected_keyword_argument":
        known = ", ".join(field.name for field in fields(getattr(Config(), section) if key else Config))
        what = f"unknown setting {name}; known in [{section}]" if key else f"unknown section [{section}]; known"
        return f"{what}: {known}"
    if kind == "dataclass_type":
        return f"{section} must be a section: [{section}]"
    if kind == "value_error":
        return f"{name} {error['ctx']['error']}"
    expected = kind.removesuffix("_type").replace("string", "str")
    return f"{name} must be of type {expected}, not {error['input']!r}"
