"""The edge folder in a real Chromium: the service's answers from a Worker, kept for a visit without the network."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.bundle import Bundle, open_bundle
from service.library import Retort
from tests.service.asked import assert_same, questions, write_kind
from tests.service.browser import Browser
from tests.service.edge.folder import build
from tests.service.edge.site import Site
from tests.service.running import wait_for

LOAD = "const { Retort } = await import(new URL('retort.js', location.href)); const [place, options, calls] = given;"
ASK = f"""{LOAD}
    const retort = await Retort.load(place, options), answers = [];
    for (const [method, ...rest] of calls) answers.push(await retort[method](...rest));
    retort.close();
    return answers;"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_kind(tmp_path_factory.mktemp("bundle") / "bundle", "int8 sum")


@pytest.fixture(scope="module")
def folder(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = build(bundle.path, tmp_path_factory.mktemp("edge") / "out")
    for kind in ("float32", "int8"):
        write_kind(out / kind, kind)
    return out


@pytest.fixture
def site(folder: Path) -> Iterator[Site]:
    site = Site(folder)
    yield site
    site.close()


@pytest.fixture
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


def test_answers_in_a_worker_are_those_of_the_service(browser: Browser, site: Site, folder: Path) -> None:
    browser.open(f"{site.url}edge.json")  # a page of the same origin that runs nothing itself

    for name in ("bundle", "float32", "int8"):
        retort = Retort.load(folder / name)
        asked = list(questions(5, 25, retort.item_ids))
        for options in ({}, {"worker": False}):
            calls = [["check"], *(["recommend", each] for each in asked)]
            n_golden, *answers = browser.run(ASK, f"/{name}/", options, calls)["value"]
            assert n_golden == len(open_bundle(folder / name).golden)
            for each, answer in zip(asked, answers, strict=True):
                assert_same(answer, retort.recommend(**each))


def test_page_recommends_and_forgets_and_sends_nothing(browser: Browser, site: Site) -> None:
    browser.open(site.url)
    wait_for(lambda: "60 items" in browser.text("#status"))
    assert browser.count("#items li") == 10
    assert "fallback (cold_user)" in browser.text("#status")

    browser.click("#items li:nth-child(3) button")
    wait_for(lambda: browser.count("#chosen li") == 1)
    assert "full" in browser.text("#status")

    browser.open(site.url)  # the history is kept by the browser
    wait_for(lambda: browser.count("#chosen li") == 1)
    browser.click("#forget")
    wait_for(lambda: browser.count("#chosen li") == 0)
    asked = [url for url in browser.requested() if url.startswith("http")]  # not the browser's own new tab
    assert asked
    assert [url for url in asked if not url.startswith(site.url)] == []
    assert not browser.complaints()


def test_second_visit_needs_no_network(browser: Browser, folder: Path) -> None:
    site = Site(folder)
    browser.open(site.url)
    wait_for(lambda: "60 items" in browser.text("#status"))
    browser.run("await navigator.serviceWorker.ready")
    site.close()

    browser.open(site.url)

    wait_for(lambda: "60 items" in browser.text("#status"))
    browser.click("#items li:nth-child(2) button")
    wait_for(lambda: browser.count("#chosen li") == 1)
    assert "full" in browser.text("#status")


def test_a_new_version_is_taken_and_the_old_one_is_dropped(browser: Browser, bundle: Bundle, tmp_path: Path) -> None:
    folder = build(bundle.path, tmp_path / "out")
    site = Site(folder)
    browser.open(f"{site.url}edge.json")
    before = browser.run(f"{LOAD} return (await Retort.load(place)).version", "/bundle/")
    other = write_kind(tmp_path / "other", "sum")
    build(other.path, folder)

    after = browser.run(f"{LOAD} return (await Retort.load(place)).version", "/bundle/")
    kept = browser.run("return await caches.keys()")
    site.close()

    assert before["value"] == bundle.manifest.version
    assert after["value"] == other.manifest.version
    assert [name for name in kept["value"] if "/bundle/" in name] == [
        f"retort {site.url}bundle/ {other.manifest.version}"
    ]


def test_what_is_wrong_is_told_through_the_worker(browser: Browser, bundle: Bundle, tmp_path: Path) -> None:
    folder = build(bundle.path, tmp_path / "out")
    site = Site(folder)
    browser.open(f"{site.url}edge.json")
    cut = write_kind(folder / "cut", "float32").path / "user_encoder.onnx"
    cut.write_bytes(cut.read_bytes()[:-9])
    wrong = folder / "wrong"
    write_kind(wrong, "float32")
    items = wrong / "items.jsonl"
    items.write_text(items.read_text().replace("title 7", "title 8"))
    manifest = json.loads((folder / "bundle" / "manifest.json").read_text())
    (folder / "newer").mkdir()
    (folder / "newer" / "manifest.json").write_text(json.dumps(manifest | {"format": 9}))

    for place, code, message in (
        ("/nowhere/", "bundle_missing", "no manifest.json here"),
        ("/wrong/", "bundle_corrupt", "items.jsonl: its sha256 is not the expected one"),
        ("/cut/", "bundle_corrupt", "user_encoder.onnx: "),
        ("/newer/", "bundle_format", "format 9; this retort.js reads formats 1 and 2"),
    ):
        answer = browser.run(ASK, place, {}, [])
        assert answer["error"]["code"] == code
        assert message in answer["error"]["message"]
    module = folder / "runtime" / "ort.wasm.bundle.min.mjs"
    module.write_bytes(module.read_bytes().replace(b'"1.30.0"', b'"1.19.2"'))
    other = Site(folder)  # another origin: what the browser has in its cache of this one may count as fresh for seconds
    browser.open(f"{other.url}edge.json")
    answer = browser.run(ASK, "/bundle/", {}, [])
    for each in (site, other):
        each.close()

    assert answer["error"]["code"] == "runtime"
    assert "onnxruntime-web 1.30.0 belongs into" in answer["error"]["message"]


def test_what_is_not_offered_is_refused_through_the_worker(browser: Browser, site: Site) -> None:
    browser.open(f"{site.url}edge.json")
    refused = browser.run(ASK, "/bundle/", {}, [["recommend", {"explain": True}]])
    assert refused["error"]["message"].startswith("explain: not supported here yet")
