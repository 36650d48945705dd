"""The README names every command, setting, endpoint, reason and metric that the code has; and none that it has not."""

import re
from pathlib import Path

from service.__main__ import _parser as service_parser
from service.metrics import REASONS, Metrics
from service.settings import Settings
from training.__main__ import build_parser as training_parser

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def commands(parser):
    return next(action for action in parser._actions if action.choices and not action.option_strings).choices


def test_readme_names_every_setting_and_no_other():
    settings = {f"RETORT_{name.upper()}" for name in Settings.model_fields}

    assert set(re.findall(r"RETORT_[A-Z0-9_]*[A-Z0-9]", README)) == settings


def test_readme_gives_each_settings_default():
    rows = dict(re.findall(r"^\| `(RETORT_\w+)` \| ([^|]*) \|", README, flags=re.MULTILINE))

    for name, field in Settings.model_fields.items():
        default = field.default
        shown = default.get_secret_value() if hasattr(default, "get_secret_value") else default
        if isinstance(shown, bool):
            shown = int(shown)
        expected = f"`{shown}`" if shown not in (None, "") else ""
        assert rows[f"RETORT_{name.upper()}"].strip() == expected, name


def test_readme_names_every_metric_and_no_other():
    families = {family.name for family in Metrics("0").registry.collect()}

    named = {re.sub(r"_total$", "", name) for name in re.findall(r"`retort_([a-z_]+)", README)}
    assert named == {re.sub(r"^retort_", "", name) for name in families}


def test_readme_names_every_command():
    for name in commands(training_parser()):
        assert f"python -m training {name}" in README, name
    for name in ("import", "export", "bench", "publish", "activate", "rollback", "status", "doctor"):
        assert name in commands(service_parser())
        assert re.search(rf"python -m service {name}\b|or {name} VERSION", README), name


def test_readme_names_every_endpoint(shared_service):
    paths = shared_service.client.get("/openapi.json").json()["paths"]

    served = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    named = set(re.findall(r"^\| `(GET|POST|PUT|DELETE) (/[^`]*)`", README, flags=re.MULTILINE))
    assert served <= named
    assert named - served == {("GET", "/docs")}


def test_readme_names_every_reason():
    for reason in REASONS:
        assert f"`{reason}`" in README, reason


def test_readme_is_short_and_has_no_hole():
    assert len(README.splitlines()) <= 250
    assert not re.search(r"\b[A-Z]+_TABLE\b", README)
