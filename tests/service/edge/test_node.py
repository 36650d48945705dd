"""The edge folder in Node: the service's answers, and a clear error for whatever is wrong with the folder."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.bundle import bundle_version, open_bundle
from service.library import Retort
from tests.service.asked import KINDS, assert_same, questions, write_kind
from tests.service.edge.folder import ask, build, values
from tests.service.running import Running, run_command
from tests.service.toy import write_toy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the smallest bundle. Copy it before you change it."""
    place = tmp_path_factory.mktemp("edge")
    return build(write_toy(place / "bundle").path, place / "out")


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A copy that may be changed; the runtime is large and linked."""
    out = tmp_path / "out"
    shutil.copytree(folder, out, copy_function=shutil.copyfile, ignore=shutil.ignore_patterns("*.wasm"))
    wasm = "runtime/ort-wasm-simd-threaded.wasm"
    (out / wasm).hardlink_to(folder / wasm)
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_the_service(kind: str, folder: Path, tmp_path: Path) -> None:
    bundle = write_kind(tmp_path / "bundle", kind)
    retort = Retort.load(bundle.path)  # tests/service/test_library.py holds it against the service
    asked = list(questions(3, 40, retort.item_ids, has_trend="sum" in kind))
    calls = [("recommend", [each]) for each in asked]

    loaded, n_golden, *answers = values(ask(folder, [("check", []), *calls], bundle=str(bundle.path)))

    assert loaded == {"version": bundle.manifest.version, "n_items": len(bundle.items)}
    assert n_golden == len(bundle.golden)
    for each, answer in zip(asked, answers, strict=True):
        expected = retort.recommend(**each)
        assert_same(answer, expected)
        is_shown = [item["item_id"] for item in answer["items"]]
        assert is_shown == [item["item_id"] for item in expected["items"]]


def test_equally_popular_items_are_in_the_order_of_code_points(folder: Path, tmp_path: Path) -> None:
    bundle = write_toy(tmp_path / "bundle")
    items = bundle.path / "items.jsonl"
    names = {1: "\ue000", 2: "\U00010000", 3: "z", 4: "é"}
    listed = [json.loads(line) for line in items.read_text().splitlines()]
    for row, name in names.items():
        listed[row] |= {"item_id": name, "popularity": 99.0}
    golden = [{"history": [], "k": 1, "items": [["i0", 0.0]]}]
    rewrite(bundle.path, **{"items.jsonl": dump(listed), "golden.jsonl": dump(golden)})

    _, answer = values(ask(folder, [("recommend", [{"k": 6}])], bundle=str(bundle.path)))

    assert [item["item_id"] for item in answer["items"]] == ["z", "é", "\ue000", "\U00010000", "i0", "i5"]
    assert_same(answer, Retort.load(bundle.path).recommend(k=6))


def test_what_was_observed_is_the_history_and_can_be_sent_and_sent_again(folder: Path, tmp_path: Path) -> None:
    bundle = write_kind(tmp_path / "bundle", "int8 sum").path
    with Running(bundle, tmp_path / "data") as service:
        sent = {"url": service.url, "user_id": "u1"}
        an_hour_ago = time.time() - 3600
        calls = [("observe", [item_id, {"timestamp": an_hour_ago}]) for item_id in ("i3", "i9")]
        calls += [("recommend", [{"exclude_seen": True}]), ("history", []), ("sync", [sent]), ("sync", [sent])]
        calls += [("forget", []), ("recommend", [])]
        _, first, _, answer, events, sync, again, _, cold = values(ask(folder, calls, bundle=str(bundle)))
        assert_same({**answer, "user_id": "u1"}, service.recommend(user_id="u1", exclude_seen=True))
        repeated = service.send(*[{"user_id": "u1", **event_of(each)} for each in events])

    assert [event["item_id"] for event in events] == ["i3", "i9"]
    assert first["event_id"] == events[0]["event_id"]
    assert (sync["accepted"], again["accepted"], again["duplicates"]) == (2, 0, 0)
    assert (repeated["accepted"], repeated["duplicates"]) == (0, 2)
    assert cold["quality"] == {"level": "fallback", "reasons": ["cold_user"]}


def event_of(event: dict[str, Any]) -> dict[str, Any]:
    return {name: event[name] for name in ("item_id", "timestamp", "event_id")}


def test_events_go_by_their_time_and_a_history_can_be_given(folder: Path) -> None:
    _, given = values(ask(folder, [("recommend", [])], options={"history": ["i1", "i2"]}))
    _, inline = values(ask(folder, [("recommend", [{"history": ["i1", "i2"]}])]))

    assert_same(given, inline)


WRONG = [
    ("recommend", {"explain": True}, "explain: not supported here yet"),
    ("recommend", {"exlude": []}, "exlude: unknown; did you mean exclude?"),
    (
        "recommend",
        {"zzz": 1},
        "zzz: unknown, known are k, history, exclude, candidates, exclude_seen, filter, fields, ",
    ),
    ("recommend", {"k": 0}, "k: a whole number from 1 to 200, not 0"),
    ("recommend", {"k": 2.5}, "k: a whole number from 1 to 200, not 2.5"),
    ("recommend", {"k": "3"}, 'k: a whole number from 1 to 200, not "3"'),
    ("recommend", {"history": "i1"}, 'history: a list of item ids, not "i1"'),
    ("recommend", {"history": ["i1"] * 201}, "history: 201 ids, at most 200"),
    ("recommend", {"exclude": ["i1", "a\n"]}, "exclude.1: 1 to 128 characters without control characters"),
    ("recommend", {"candidates": [7]}, "candidates.0: 1 to 128 characters"),
    ("recommend", {"exclude_seen": "no"}, "exclude_seen: true, false or null"),
    ("recommend", [], "recommend: give an object of options"),
    ("recommend", {"trend": -1}, "trend: a number from 0 to 10, not -1"),
    ("recommend", {"trend": True}, "trend: a number from 0 to 10, not true"),
    ("recommend", {"trend": 0.5}, "trend: the scores of the model that answers have no trend"),
    ("observe", "", "item_id: 1 to 128 characters"),
    ("sync", {}, "url: the address of a Retort service"),
    ("sync", {"url": "x", "kye": ""}, "kye: unknown; did you mean key?"),
]


def test_a_wrong_call_is_named(folder: Path) -> None:
    _, *answers = ask(folder, [(method, [given]) for method, given, _ in WRONG])

    for (_, _, message), answer in zip(WRONG, answers, strict=True):
        assert answer["error"]["code"] == "malformed"
        assert answer["error"]["message"].startswith(message)


def test_a_service_that_is_away_loses_nothing(folder: Path) -> None:
    calls = [("observe", ["i1"]), ("sync", [{"url": "http://127.0.0.1:9"}]), ("history", [])]

    _, _, refused, events = ask(folder, calls)

    assert refused["error"]["code"] == "sync"
    assert "try again" in refused["error"]["message"]
    assert [event["is_sent"] for event in events["value"]] == [False]


def cut(folder: Path) -> None:
    path = folder / "bundle" / "item_embeddings.npy"
    path.write_bytes(path.read_bytes()[:-5])


def flip(folder: Path) -> None:
    path = folder / "bundle" / "user_encoder.onnx"
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)


def lose(folder: Path) -> None:
    (folder / "bundle" / "items.jsonl").unlink()


def make_newer(folder: Path) -> None:
    change_manifest(folder, format=3)


def make_traveller(folder: Path) -> None:
    change_manifest(folder, files={"../edge.json": {"sha256": "0" * 64, "size": 1}})


def unread(folder: Path) -> None:
    (folder / "bundle" / "manifest.json").write_text("{")


def take_away(folder: Path) -> None:
    shutil.rmtree(folder / "bundle")


def make_wrong(folder: Path) -> None:
    golden = open_bundle(folder / "bundle").golden[1]
    wrong = [{"history": golden.history, "k": 1, "items": [[golden.items[0][0], golden.items[0][1] + 1]]}]
    rewrite(folder / "bundle", **{"golden.jsonl": dump(wrong)})


def grow_old(folder: Path) -> None:
    """Another version of the runtime, with sums that fit: as if somebody had changed both."""
    module = folder / "runtime" / "ort.wasm.bundle.min.mjs"
    module.write_bytes(module.read_bytes().replace(b'"1.30.0"', b'"1.19.2"'))
    edge = json.loads((folder / "edge.json").read_text())
    edge["runtime"]["files"][module.name] = fingerprint(module)
    (folder / "edge.json").write_text(json.dumps(edge))


def change_runtime(folder: Path) -> None:
    module = folder / "runtime" / "ort.wasm.bundle.min.mjs"
    module.write_bytes(module.read_bytes().replace(b'"1.30.0"', b'"1.19.2"'))


def lose_sums(folder: Path) -> None:
    (folder / "edge.json").unlink()


@pytest.mark.parametrize(
    ("damage", "code", "message"),
    [
        (cut, "bundle_corrupt", "item_embeddings.npy: 2043 bytes, 2048 are expected"),
        (flip, "bundle_corrupt", "user_encoder.onnx: its sha256 is not the expected one"),
        (lose, "bundle_corrupt", "items.jsonl: missing"),
        (make_newer, "bundle_format", "manifest.json: format 3; this retort.js reads formats 1 and 2"),
        (make_traveller, "bundle_corrupt", "manifest.json: ../edge.json is not an allowed file name"),
        (unread, "bundle_corrupt", "manifest.json:1: not JSON"),
        (take_away, "bundle_missing", "no manifest.json here"),
        (make_wrong, "model", "golden answer 1 is not reproduced by this runtime"),
        (grow_old, "runtime", "onnxruntime-web 1.19.2 is loaded, 1.30.0 is needed"),
        (change_runtime, "runtime", "its sha256 is not the expected one; onnxruntime-web 1.30.0 belongs into"),
        (lose_sums, "runtime", "edge.json: missing"),
    ],
)
def test_a_folder_that_is_not_whole_says_what_is_wrong(
    damage: Callable[[Path], None], code: str, message: str, copied: Path
) -> None:
    damage(copied)

    (answer,) = ask(copied, [])

    assert answer["error"]["code"] == code
    assert message in answer["error"]["message"]


def fingerprint(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def change_manifest(folder: Path, **fields: Any) -> None:
    path = folder / "bundle" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def dump(lines: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def rewrite(bundle: Path, **texts: str) -> None:
    """Write other texts into files of a bundle, with sums that fit."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    for name, text in texts.items():
        (bundle / name).write_text(text, encoding="utf-8")
        manifest["files"][name] = fingerprint(bundle / name)
    manifest["version"] = bundle_version(manifest["files"])
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_a_folder_that_is_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    bundle = write_toy(tmp_path / "bundle").path
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")

    done = run_command("edge", str(bundle), str(tmp_path / "mine"))

    assert done.returncode == 2
    assert "it is there, and not from this command" in done.stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter"]


def test_without_npm_the_command_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write_toy(tmp_path / "bundle").path
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    missing = run_command("edge", str(bundle), str(tmp_path / "out"))
    wrong = run_command("edge", str(bundle), str(tmp_path / "out"), "--runtime", str(tmp_path))

    for done in (missing, wrong):
        assert done.returncode == 2
        assert "npm pack onnxruntime-web@1.30.0" in done.stderr
        assert "--runtime DIR" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_runtime_of_another_version_is_refused_when_the_folder_is_made(folder: Path, tmp_path: Path) -> None:
    bundle, runtime = write_toy(tmp_path / "bundle").path, tmp_path / "runtime"
    shutil.copytree(folder / "runtime", runtime)
    change_runtime(tmp_path)

    done = run_command("edge", str(bundle), str(tmp_path / "out"), "--runtime", str(runtime))

    assert done.returncode == 2
    assert "ort.wasm.bundle.min.mjs: it is not that of onnxruntime-web@1.30.0" in done.stderr
