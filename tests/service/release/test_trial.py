"""The trial: what an answer may cost, what its process has and may do, and what a hostile one can say."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from service.errors import RefusedError
from service.release.cost import SPARE_BYTES, spare_bytes
from service.release.trial import _listen, _read_verdict, try_bundle
from tests.service.running import children_of
from tests.service.toy import DIM, MAX_HISTORY, mean_encoder, write_toy

PATH = Path("bundle")


def scalar(name: str, kind: int, value: float) -> TensorProto:
    return helper.make_tensor(name, kind, [], [value])


def of_kind(name: str, kind: int) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, [])


def looping_encoder(*times: str, steps: int) -> bytes:
    """The toy's encoder, which also counts to steps for nothing. times: "batch" and "time", as often as it counts."""
    model = ModelProto.FromString(mean_encoder())
    graph = model.graph
    graph.node[-1].output[0] = "right"
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Add", ["sum", "one"], ["more"])],
        "body",
        [of_kind("i", TensorProto.INT64), of_kind("go", TensorProto.BOOL), of_kind("sum", TensorProto.FLOAT)],
        [of_kind("go_on", TensorProto.BOOL), of_kind("more", TensorProto.FLOAT)],
    )
    numbers = {"steps": steps, "first": 0, "second": 1}
    graph.initializer.extend(scalar(name, TensorProto.INT64, value) for name, value in numbers.items())
    graph.initializer.extend([scalar("yes", TensorProto.BOOL, True), scalar("nought", TensorProto.FLOAT, 0.0)])
    nodes = [
        helper.make_node("Shape", ["history"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["batch"]),
        helper.make_node("Gather", ["shape", "second"], ["time"]),
    ]
    count = "steps"
    for number, name in enumerate(times):
        nodes.append(helper.make_node("Mul", [count, name], [f"count{number}"]))
        count = f"count{number}"
    nodes += [
        helper.make_node("Loop", [count, "yes", "nought"], ["counted"], body=body),
        helper.make_node("Mul", ["counted", "zero"], ["nothing"]),
        helper.make_node("Add", ["right", "nothing"], ["user"]),
    ]
    graph.node.extend(nodes)
    return model.SerializeToString()


def try_it(bundle: Path) -> None:
    asyncio.run(try_bundle(bundle, kind="auto", codes=bundle.parent / "codes"))


def refusal(bundle: Path) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        try_it(bundle)
    return caught.value


def test_good_bundle_passes(tmp_path: Path) -> None:
    try_it(write_toy(tmp_path / "b").path)

    assert (tmp_path / "codes").is_dir(), "no trial has begun"


def test_encoder_that_does_not_end_is_killed_in_seconds(tmp_path: Path) -> None:
    bundle = write_toy(tmp_path / "b", encoder=looping_encoder(steps=1 << 40)).path

    said = refusal(bundle)

    assert said.result == "rejected_canary"
    assert "takes more than 5 s" in str(said)


@pytest.mark.parametrize(
    ("encoder", "named"),
    [
        (looping_encoder(steps=2_000_000), "1 histories of 6 items take"),
        (looping_encoder("batch", "batch", steps=2_000), "histories of 6 items take"),
        (mean_encoder(wasted=16_000), "needs more than 512 MiB"),
    ],
    ids=["always", "batches alone", "2 GB"],
)
def test_encoder_whose_answers_cost_too_much_is_refused(tmp_path: Path, encoder: bytes, named: str) -> None:
    said = refusal(write_toy(tmp_path / "b", encoder=encoder).path)

    assert (said.result, named in str(said)) == ("rejected_canary", True), str(said)


def test_memory_follows_the_size_of_the_largest_batch() -> None:
    assert spare_bytes(MAX_HISTORY, DIM) < SPARE_BYTES + (1 << 20)
    assert spare_bytes(200, 384) > SPARE_BYTES + 50 * 32 * 200 * 384 * 4


def test_slow_encoder_that_a_request_may_have_time_for_passes(tmp_path: Path) -> None:
    try_it(write_toy(tmp_path / "b", encoder=looping_encoder(steps=100_000)).path)

    assert (tmp_path / "codes").is_dir(), "no trial has begun"


def test_process_has_no_secret_in_its_environment_and_has_its_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RETORT_API_KEYS", "RETORT_REDIS_URL", "AWS_SECRET_ACCESS_KEY", "PYTHONPATH"):
        monkeypatch.setenv(name, "a-secret")
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    bundle = write_toy(tmp_path / "b", encoder=looping_encoder(steps=30_000)).path

    async def look() -> tuple[bytes, str]:
        trial = asyncio.create_task(try_bundle(bundle, kind="auto", codes=tmp_path / "codes"))
        environment = limits = b""
        while not trial.done():
            await asyncio.sleep(0.02)
            for pid in children_of(os.getpid(), b"service.release.trial"):
                environment, limits = _read(pid, "environ") or environment, _read(pid, "limits") or limits
        await trial
        return environment, " ".join(limits.decode().split())

    environment, limits = asyncio.run(look())

    assert b"a-secret" not in environment
    assert b"ORT_DISABLE_TELEMETRY=1" in environment.split(b"\0")
    for said in ("core file size 0 0", "processes 0 0", "open files 256 256", "cpu time 600 601"):
        assert f"Max {said}" in limits
    assert "Max address space unlimited" not in limits and "Max file size unlimited" not in limits


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize(
    ("said", "code", "result"),
    [
        (b"", -signal.SIGKILL, "error"),
        (b"", -signal.SIGSEGV, "error"),
        (b"", -signal.SIGPROF, "rejected_canary"),
        (b"", -signal.SIGXCPU, "rejected_canary"),
        (b"null", 0, "error"),
        (b"[]", 0, "error"),
        (b'"ok"', 0, "error"),
        (b'{"result": "ok"}', 0, "error"),
        (b'{"result": "no such", "message": ""}', 0, "error"),
        (b'{"result": ["ok"], "message": ""}', 0, "error"),
        (b'{"result": "rejected_schema", "message": {"a": 1}}', 0, "rejected_schema"),
        (b"[" * 60_000, 0, "error"),
    ],
)
def test_verdict_that_is_none_refuses(said: bytes, code: int, result: str) -> None:
    with pytest.raises(RefusedError) as caught:
        _read_verdict(PATH, said, code)

    assert caught.value.result == result


def test_process_that_talks_for_ever_is_cut_off() -> None:
    async def listen() -> tuple[int, int | None]:
        process = await asyncio.create_subprocess_exec("/usr/bin/yes", stdout=asyncio.subprocess.PIPE)
        said = await _listen(process)
        return len(said), await process.wait()

    length, code = asyncio.run(listen())

    assert length < 200_000
    assert code == -signal.SIGKILL
