"""An experiment that is lost ends by itself, in a whole service."""

from pathlib import Path

from service.bundle import read_manifest
from service.experiment.assignment import Assignment
from service.experiment.record import parse_experiment
from tests.service.running import Running, run_command, wait_for
from tests.service.toy import write_toy


def test_version_with_which_users_do_worse_is_taken_back_within_seconds(toy_bundle: Path, tmp_path: Path) -> None:
    other = write_toy(tmp_path / "other", seed=21).path
    with Running(toy_bundle, tmp_path / "data") as service:
        for path, more in ((toy_bundle, ()), (other, ("--as", "experiment", "--share", "50"))):
            done = run_command("publish", str(path), *more, "--wait", "50", "--data-dir", str(service.data_dir),
                               conversions="buy")  # fmt: skip
            assert done.returncode == 0, done.stderr

        def running() -> bool:
            with service.store() as store:
                found = parse_experiment(store.get("retort:experiment"))
            assert found is not None
            return found.is_running

        with service.store() as store:
            begun = parse_experiment(store.get("retort:experiment"))
        assert begun is not None and begun.is_running
        takes = Assignment(begun.salt, 50).takes
        users = [f"e{number}" for number in range(400)]
        service.send(*({"user_id": user, "item_id": "i1", "type": "impression"} for user in users))
        service.send(*({"user_id": user, "item_id": "i1", "type": "buy"} for user in users if not takes(user)))
        wait_for(lambda: not running(), timeout_s=40)
        status = run_command("experiment", "status", "--data-dir", str(service.data_dir)).stdout
        wait_for(lambda: service.metric("retort_experiment_share", kind="experiment") == 0)
        answers = {service.recommend(user_id=user, k=3)["model_version"] for user in users[:20]}
        ended = [line for line in service.log_lines() if line["event"] == "experiment_ended"]

        assert "conversions: buy" in status, "though neither the service nor who asks was told"
        assert "ended 20" in status and "conversions: at most -" in status
        assert answers == {read_manifest(toy_bundle).version}
        assert [line["cause"] for line in ended] == ["quality"]
        assert service.metric("retort_experiments_ended_total", cause="quality") == 1
