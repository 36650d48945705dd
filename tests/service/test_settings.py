"""The settings: flags before the environment, an empty one is an unset one, and a wrong name or value is an error."""

import os
from pathlib import Path

import pytest

from service.errors import StartError
from service.settings import Settings, environment_of, ignored_names, read_settings


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without settings of the developer's."""
    for name in [name for name in os.environ if name.upper().startswith("RETORT_")]:
        monkeypatch.delenv(name)
    return monkeypatch


def test_a_flag_wins_over_the_environment_even_where_that_is_wrong(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RETORT_PORT", "not a port")
    environment.setenv("RETORT_HOST", "0.0.0.0")

    settings = read_settings(port=0, host="127.0.0.1", bundle=None)

    assert (settings.port, settings.host) == (0, "127.0.0.1")


@pytest.mark.parametrize("empty", ["", " ", "\t "])
def test_every_setting_that_is_empty_is_unset(environment: pytest.MonkeyPatch, empty: str) -> None:
    unset = read_settings()
    for name in Settings.model_fields:
        environment.setenv(f"RETORT_{name.upper()}", empty)

    assert read_settings() == unset


def test_an_empty_flag_leaves_the_environment_its_say(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RETORT_HOST", "::1")

    assert read_settings(host="").host == "::1"


def test_address_of_a_kubernetes_service_is_left_out_and_named(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RETORT_PORT", "tcp://10.96.0.12:8000")
    environment.setenv("RETORT_SERVICE_HOST", "10.96.0.12")

    assert read_settings().port == 8000
    assert read_settings(port=9).port == 9
    assert ignored_names() == ["RETORT_PORT", "RETORT_SERVICE_HOST"]


def test_an_unknown_name_is_an_error_that_names_the_nearest_and_no_value(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RETORT_API_KEY", "s3cret")
    environment.setenv("RETORT_BUDGETMS", "20")

    with pytest.raises(StartError) as caught:
        read_settings()

    for word in (
        "RETORT_API_KEY (the nearest is RETORT_API_KEYS)",
        "RETORT_BUDGETMS (the nearest is RETORT_BUDGET_MS)",
    ):
        assert word in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_bad_value_is_named_and_not_quoted(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RETORT_BUDGET_MS", "s3cret")

    with pytest.raises(StartError, match="RETORT_BUDGET_MS") as caught:
        read_settings()

    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("data_dir", [None, "~/data", "~nobody-of-this-name/data"])
def test_a_home_that_nobody_knows_is_an_error_with_the_way_out(
    environment: pytest.MonkeyPatch, data_dir: str | None
) -> None:
    def forget(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    environment.setattr(Path, "expanduser", forget)
    if data_dir:
        environment.setenv("RETORT_DATA_DIR", data_dir)

    with pytest.raises(StartError, match=r"RETORT_DATA_DIR: .*no home directory: set it"):
        read_settings()


def test_a_child_reads_exactly_the_settings_of_its_parent(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = {
        "RETORT_HOST": "0.0.0.0",
        "RETORT_API_KEYS": "one, two",
        "RETORT_PORT": "tcp://10.96.0.12:8000",
        "RETORT_SERVICE_HOST": "10.96.0.12",
        "RETORT_LOG_REQUESTS": "0",
        "RETORT_STORE_SHARE": "0.25",
        "retort_budget_ms": "30",
    }
    for name, value in given.items():
        environment.setenv(name, value)
    settings = read_settings(host="127.0.0.1", data_dir=tmp_path, bundle=tmp_path / "a b")

    child = environment_of(settings, {**os.environ, "PATH": "/bin"})
    for name in given:
        environment.delenv(name)
    for name, value in child.items():
        environment.setenv(name, value)

    assert read_settings() == settings
    assert child["PATH"] == "/bin"
    assert not {"RETORT_SERVICE_HOST", "retort_budget_ms"} & set(child)
