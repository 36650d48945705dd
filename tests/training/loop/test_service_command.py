"""Which store the service's commands are given."""

from pathlib import Path

import pytest

from tests.service.running import Running, run_command
from tests.service.toy import write_toy
from training.errors import InputError
from training.loop.service_command import ServiceCommand


@pytest.mark.parametrize("store", ["nowhere", "localhost:6379"])
def test_a_store_that_is_neither_a_url_nor_a_directory_is_refused_and_not_made(tmp_path: Path, store: str) -> None:
    with pytest.raises(InputError, match="no such directory; give what the service has as RETORT_DATA_DIR, or its URL"):
        ServiceCommand(str(tmp_path / store))

    assert not list(tmp_path.iterdir())


def test_versions_that_may_become_live_by_a_word_are_known(toy_bundle: Path, tmp_path: Path) -> None:
    first, live, tried = (write_toy(tmp_path / str(seed), seed=seed) for seed in (1, 2, 3))
    wait = ("--wait", "60")  # a version that no process came to serve is none to go back to
    with Running(toy_bundle, tmp_path / "data") as service:
        command = ServiceCommand(str(service.data_dir))
        assert command.wanted() == []
        for bundle, words in ((first, wait), (live, wait), (tried, ("--as", "shadow"))):
            done = run_command("publish", str(bundle.path), "--data-dir", str(service.data_dir), *words)
            assert done.returncode == 0, done.stderr

        assert command.wanted() == [first.manifest.version, tried.manifest.version]


def test_no_publish_of_a_refresh_ends_what_is_tried_on_users(toy_bundle: Path, tmp_path: Path) -> None:
    live, tried, new = (write_toy(tmp_path / str(seed), seed=seed) for seed in (1, 2, 3))
    with Running(toy_bundle, tmp_path / "data") as service:
        store = ("--data-dir", str(service.data_dir))
        for bundle, words in ((live, ()), (tried, ("--as", "canary", "--share", "20"))):
            assert run_command("publish", str(bundle.path), *store, *words).returncode == 0
        command = ServiceCommand(str(service.data_dir))

        with pytest.raises(InputError, match=f"version {tried.manifest.version} runs as canary beside the live one"):
            command.publish(new.path, live.manifest.version)
        kept = command.live_version()
        again = run_command("publish", str(live.path), *store, "--if-live", live.manifest.version)
        still = command.tried()
        assert run_command("experiment", "stop", *store).returncode == 0
        command.publish(new.path, live.manifest.version)

        assert (kept, again.returncode) == (live.manifest.version, 0)
        assert still is not None and tried.manifest.version in still
        assert command.live_version() == new.manifest.version
