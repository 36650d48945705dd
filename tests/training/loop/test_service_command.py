"""Which store the service's commands are given."""

from pathlib import Path

import pytest

from training.errors import InputError
from training.loop.service_command import ServiceCommand


@pytest.mark.parametrize("store", ["nowhere", "localhost:6379"])
def test_a_store_that_is_neither_a_url_nor_a_directory_is_refused_and_not_made(tmp_path: Path, store: str) -> None:
    with pytest.raises(InputError, match="no such directory; give what the service has as RETORT_DATA_DIR, or its URL"):
        ServiceCommand(str(tmp_path / store))

    assert not list(tmp_path.iterdir())
