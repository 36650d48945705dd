"""python -m service serve: its flags hold in every process, and what is not said in the environment is not said."""

from pathlib import Path

import pytest

from tests.service.running import Running, run_command, wait_for

SERVICE = {
    "PORT": "tcp://10.96.0.12:8000",  # in capitals, since port= is a flag of Running
    "service_host": "10.96.0.12",
    "service_port": "8000",
    "port_8000_tcp_addr": "10.96.0.12",
}
"""Some of what a Kubernetes Service named retort puts into the environment of every container."""


def test_flags_hold_in_workers_whatever_the_environment_says(toy_bundle: Path, tmp_path: Path) -> None:
    contrary = {"host": "0.0.0.0", "bundle": "/nowhere", "data_dir": "/proc/nowhere"}

    with Running(
        toy_bundle, tmp_path / "data", "--workers", "2", "--host", "127.0.0.1", **contrary, PORT="tcp"
    ) as running:
        ready = wait_for(lambda: [line for line in running.log_lines() if line["event"] == "worker_ready"])
        answer = running.recommend(history=["i1"], k=3)

    assert {line["host"] for line in ready} == {"127.0.0.1"}
    assert {line["url"] for line in ready} == {running.url}
    assert len(answer["items"]) == 3


def test_addresses_of_a_kubernetes_service_are_left_out_with_one_line(toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path / "data", "--workers", "2", **SERVICE) as running:
        lines = [line for line in running.log_lines() if line["event"] == "setting_ignored"]
        assert running.recommend(history=["i1"], k=1)["items"]

    assert len(lines) == 1
    assert lines[0]["severity"] == "warning"
    assert lines[0]["names"] == sorted(f"RETORT_{name.upper()}" for name in SERVICE)


def test_an_empty_store_url_is_none_for_every_command(toy_bundle: Path, tmp_path: Path) -> None:
    data, empty = str(tmp_path / "data"), ""
    (tmp_path / "histories.jsonl").write_text('{"user_id": "u", "item_id": "i1", "timestamp": 1700000000}\n')
    with Running(toy_bundle, tmp_path / "data", redis_url=empty, api_keys=empty, bundle=empty) as running:
        for command in (
            ["status"],
            ["publish", str(toy_bundle)],
            ["doctor"],
            ["import", str(tmp_path / "histories.jsonl")],
            ["export", str(tmp_path / "events.jsonl")],
        ):
            done = run_command(*command, "--data-dir", data, redis_url=empty, budget_ms=empty)
            assert done.returncode == 0, (command, done.stdout + done.stderr)
        back = run_command("rollback", "--data-dir", data, redis_url=empty)
        assert running.client.get("/readyz").json()["store"]["kind"] == "embedded"

    assert back.returncode == 2
    assert "in use" not in back.stderr


@pytest.mark.parametrize("command", [["serve"], ["status"], ["doctor"], ["import", "x.jsonl"]])
def test_a_misspelt_setting_ends_every_command_with_the_nearest_name(command: list[str]) -> None:
    done = run_command(*command, api_key="s3cret")

    assert done.returncode == 2
    assert "RETORT_API_KEY (the nearest is RETORT_API_KEYS)" in done.stderr
    assert "s3cret" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["publish", "import", "export"])
def test_an_empty_path_is_refused_where_one_is_needed(command: str, tmp_path: Path) -> None:
    done = run_command(command, "", "--data-dir", str(tmp_path))

    assert done.returncode == 2
    assert "a path, not an empty text" in done.stderr


def test_the_doctor_looks_at_what_serve_would_do_with_the_same_flags(toy_bundle: Path, tmp_path: Path) -> None:
    given = ["doctor", "--bundle", str(toy_bundle), "--data-dir", str(tmp_path / "data"), "--port", "0"]

    closed = run_command(*given, "--host", "127.0.0.1", host="0.0.0.0")
    opened = run_command(*given, "--host", "0.0.0.0", host="127.0.0.1")

    assert "PASS  keys         listens on 127.0.0.1" in closed.stdout
    assert "FAIL  keys" in opened.stdout
    assert (closed.returncode, opened.returncode) == (0, 1)
