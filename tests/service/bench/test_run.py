"""The command finds a peak and reports it, and says what is wrong."""

import asyncio
import json
import signal
from pathlib import Path

import pytest

from service.__main__ import main
from tests.service.bench.server import answering
from tests.service.running import Running, run_command, wait_for


@pytest.mark.parametrize("whose", ["histories", "users"])
def test_bench_prints_a_table_a_plot_and_json(
    shared_service: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str], whose: str
) -> None:
    plot, users = tmp_path / "plot.png", tmp_path / "users.txt"
    users.write_text('bench-1\n{"user_id": "bench-2"}\n')
    common = ["--url", shared_service.url, "--budget-ms", "1000", "--max-rate", "100", "--seconds", "1"]

    status = main(["bench", *common, "--plot", str(plot), *(["--users", str(users)] if whose == "users" else [])])

    said = capsys.readouterr().out
    report = json.loads(said.splitlines()[-1])
    level = {"histories": "full", "users": "fallback"}[whose]  # nobody knows these two users
    assert status == 0
    assert (report["max_rate_within_budget"], report["limited_by"]) == (100, "max_rate")
    assert report["steps"][-1]["levels"] == {level: report["steps"][-1]["requests"]}
    assert "p99 is within 1000 ms up to 100 requests/s" in said
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--url", "nonsense"), "is not a URL"),
        (("--url", "http://127.0.0.1:9"), "nothing answers"),
        (("--users", "/nowhere"), "not a file of user ids"),
        (("--users", "/dev/null"), "no user id"),
    ],
)
def test_what_is_asked_wrongly_is_said(
    shared_service: Running, arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--url", shared_service.url, *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("--budget-ms", "0"), ("--max-rate", "many"), ("-k", "201")])
def test_numbers_have_bounds(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", *arguments])

    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


async def test_other_servers_are_not_benched() -> None:
    async with answering() as target:
        done = await asyncio.to_thread(run_command, "bench", "--url", target.url)

    assert done.returncode == 2
    assert "does not answer as a retort service" in done.stderr


def test_key_and_readiness_are_asked_for(toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path, api_keys="right", drain_s="60") as running:
        without = run_command("bench", "--url", running.url)
        wrong = run_command("bench", "--url", running.url, "--key", "wrong")
        running.process.send_signal(signal.SIGTERM)
        wait_for(lambda: running.client.get("/readyz").status_code == 503)
        draining = run_command("bench", "--url", running.url, api_keys="right")
        running.process.kill()

    assert [done.returncode for done in (without, wrong, draining)] == [2, 2, 2]
    assert "give --key" in without.stderr
    assert "key" in wrong.stderr
    assert "is not ready" in draining.stderr
