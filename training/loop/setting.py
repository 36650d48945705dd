"""The settings of a refresh: those of the first run, with the files read as a refresh writes them and its own split."""

import math
from collections.abc import Sequence
from dataclasses import asdict, replace

from training.errors import InputError
from training.run.config import Config, Prepare, Refresh
from training.run.config_file import build_config, load_config
from training.run.directory import Run

_FILE = ("columns", "times", "format", "delimiter", "quote", "header", "encoding")
_ITEM_FILE = ("item_columns", "item_delimiter", "item_quote", "item_encoding")
_TRAINED = ("teacher", "student", "distill")  # sections that the weights are of


def refresh_config(first: Run, overrides: Sequence[str], *, has_items: bool) -> Config:
    """Return the settings of the first run with overrides, for the files of a refresh. Raises InputError.

    has_items: there is an items file, which is read as the first run read its own.
    """
    for override in overrides:
        name = override.partition("=")[0].strip()
        if name.startswith("split.") or name.removeprefix("prepare.") in _FILE:
            raise InputError(
                f"--set {name}: a refresh decides it itself: it writes its files, and holds out the newest"
            )
    values = asdict(first.config)
    for section, settings in asdict(load_config(None, overrides)).items():
        named = {
            override.partition("=")[0].strip().partition(".")[2]
            for override in overrides
            if override.strip().startswith(f"{section}.")
        }
        values[section] |= {key: settings[key] for key in named}
    config = build_config(values)
    if config.refresh.propensity != "none" and config.prepare.weights != "loss":
        raise InputError(
            f"refresh.propensity={config.refresh.propensity} weighs events, and prepare.weights is "
            f"{config.prepare.weights}: --set prepare.weights=loss"
        )
    own = {name: getattr(Prepare(), name) for name in (*_FILE, *(() if has_items else _ITEM_FILE))}
    return replace(
        config,
        prepare=replace(config.prepare, **own),
        distill=replace(config.distill, smoothing=0.0),  # a student to compare with, which is not served
        split=replace(config.split, test="time", val="time"),
    )


def hold_newest(config: Config, n_judged: int, n_events: int) -> Config:
    """Return the settings with a split that holds out the newest events for the judging and as many before them."""
    share = min(0.49, n_judged / n_events)
    return replace(config, split=replace(config.split, time_share=share))


def differing_training(ours: Config, theirs: Config) -> list[str]:
    """Return the settings that the weights depend on and in which two configs differ."""
    return [
        f"{section}.{key}"
        for section in _TRAINED
        for key, value in asdict(getattr(ours, section)).items()
        if value != asdict(getattr(theirs, section))[key] and (section, key) != ("distill", "smoothing")
    ]


def count_judged(settings: Refresh, n_new: int) -> int:
    """Return how many of so many new events judge, at most judged_most."""
    return min(settings.judged_most, round(settings.judged_share * n_new))


def count_needed(settings: Refresh) -> int:
    """Return with how many new events a refresh begins: so many that enough of them judge."""
    return math.ceil(settings.judged_least / settings.judged_share)
