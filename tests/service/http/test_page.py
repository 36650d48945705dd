"""GET /: the page and its files, from memory, without a key, kept by browsers, and nothing beside them."""

import hashlib
import json
import re
from pathlib import Path
from urllib.parse import urljoin

import pytest

from service.http.page import FOLDER, read_page
from tests.service.running import KEY, Running

VENDOR = FOLDER / "vendor"
SERVED = sorted(read_page().paths - {"/"})
ELSEWHERE = re.compile(r"""(?:https?:|["'(=])//[^\s"'<>)]+""")


def test_page_refers_only_to_files_that_are_served_beside_it(keyed_service: Running) -> None:
    page = keyed_service.client.get("/")
    references = {urljoin("/", each) for each in re.findall(r'(?:src|href)="([^"]+)"', page.text)}

    assert page.status_code == 200
    assert len(references) == 3
    assert references <= set(SERVED)


def test_every_module_that_is_imported_is_served() -> None:
    for name, file in read_page().files.items():
        for imported in re.findall(r'(?:from ?|import\(|@import )"([^"\s]+)"', file.body.decode()):
            assert urljoin(name, imported) in SERVED, f"{name}: {imported}"


def test_a_browser_may_run_and_ask_nothing_from_elsewhere(keyed_service: Running) -> None:
    found = [keyed_service.client.get(path).headers for path in ("/", *SERVED)]
    policy = found[0]["content-security-policy"]

    assert {headers["content-security-policy"] for headers in found} == {policy}
    assert {headers["referrer-policy"] for headers in found} == {"no-referrer"}
    directives = dict(each.strip().split(" ", 1) for each in policy.split(";"))
    assert directives["default-src"] == directives["frame-ancestors"] == "'none'"
    assert directives["script-src"] == directives["style-src"] == directives["connect-src"] == "'self'"
    assert "unsafe" not in policy


@pytest.mark.parametrize("path", SERVED)
def test_files_are_kept_for_good_and_need_no_key(keyed_service: Running, path: str) -> None:
    answer = keyed_service.client.get(path)
    again = keyed_service.client.get(path, headers={"If-None-Match": answer.headers["etag"]})
    kinds = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".txt": "text/plain"}

    assert answer.status_code == 200
    assert answer.headers.get_list("cache-control") == ["public, max-age=31536000, immutable"]
    assert answer.headers["content-type"].partition(";")[0] == kinds[Path(path).suffix]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert (again.status_code, again.content) == (304, b"")
    own = path.rpartition("/vendor/")[1] or path.endswith(".svg")  # an SVG has the name of its language
    assert own or not ELSEWHERE.search(answer.text)


def test_the_page_itself_is_asked_for_each_time_and_others_are_never_kept(keyed_service: Running) -> None:
    page = keyed_service.client.get("/")

    assert page.headers.get_list("cache-control") == ["no-cache"]
    assert keyed_service.client.get("/", headers={"If-None-Match": page.headers["etag"]}).status_code == 304
    assert keyed_service.client.head("/").headers["etag"] == page.headers["etag"]
    for path in ("/livez", "/docs", "/openapi.json", "/model", "/nothing"):
        assert keyed_service.client.get(path).headers.get_list("cache-control") == ["no-store"], path


def test_nothing_beside_the_page_is_open(keyed_service: Running) -> None:
    place = SERVED[0].rpartition("/")[0]
    beside = ("", "/", "/../model", "/%2e%2e/model", "/sums.json", "/vendor/sums.json", "/index.html")
    paths = [*(place + each for each in beside), "/page", "/page/", "/page/0000000000000000/page.js", "/index.html"]

    assert {path: keyed_service.client.get(path).status_code for path in paths} == dict.fromkeys(paths, 401)


def test_page_can_be_off(toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path, page="0", api_keys=KEY) as service:
        service.client.headers["X-API-Key"] = KEY
        found = [service.client.get(path).status_code for path in ("/", SERVED[0], "/docs")]
        del service.client.headers["X-API-Key"]
        unknown = service.client.get("/").status_code

    assert found == [404, 404, 200]
    assert unknown == 401


def test_page_counts_as_one_route(toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path) as service:
        for path in ("/", *SERVED):
            service.client.get(path)

        assert service.metric("retort_http_requests_total", route="/") == len(SERVED) + 1


def test_what_is_brought_along_is_what_npm_gave() -> None:
    sums = json.loads((VENDOR / "sums.json").read_text())
    found = {name: own["served"] for files in sums.values() for name, own in files.items()}

    assert {path.name for path in VENDOR.iterdir() if path.suffix in (".js", ".css")} == set(found)
    for name, expected in found.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == expected, name
    for package in sums:
        assert (VENDOR / f"{package.partition('@')[0]}.LICENSE.txt").read_text()


def test_the_place_changes_with_any_file(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("FOLDER")
    (tmp_path / "a.js").write_text("1")
    before = read_page(tmp_path)
    (tmp_path / "a.js").write_text("2")
    after = read_page(tmp_path)

    assert not (before.paths & after.paths) - {"/"}
    assert before.files["/"].headers["ETag"] != after.files["/"].headers["ETag"]
