"""GET /docs: a page made of nothing but what is served here, which sends the key that it is given."""

import hashlib
import re
from pathlib import Path
from urllib.parse import urljoin

import pytest

from service.access.key import DOCUMENT_PATHS
from tests.service.browser import Browser
from tests.service.running import KEY, Running, wait_for

SWAGGER_UI_5_34_0 = {
    "/docs/swagger-ui-bundle.js": "3f6abf70480db7e07914df4c98a77385f22ea585eaf457a3e6415ba0eae2d167",
    "/docs/swagger-ui.css": "c3cfe8248c4b0b89673600fb829924eafbac6de4bc4b2b06f5f5243483074d0a",
    "/docs/favicon-32x32.png": "3ed612f41e050ca5e7000cad6f1cbe7e7da39f65fca99c02e99e6591056e5837",
}
"""sha256 of the files in swagger-ui-dist 5.34.0 of the npm registry, which fastapi-swagger 0.4.64 carries unchanged."""
ELSEWHERE = re.compile(r"(?:https?:)?//[^\s\"'<>)]+")


def test_page_refers_only_to_what_is_served_here_without_a_key(keyed_service: Running) -> None:
    page = keyed_service.client.get("/docs")
    style = keyed_service.client.get("/docs/swagger-ui.css").text
    start = keyed_service.client.get("/docs/start.js").text
    references = re.findall(r'(?:src|href)="([^"]+)"', page.text) + re.findall(r'url: "([^"]+)"', start)
    in_style = {each.strip("\"'") for each in re.findall(r"url\(([^)]+)\)", style)}

    paths = {urljoin("/docs", each) for each in references}
    assert paths | {"/docs"} == DOCUMENT_PATHS
    for path in DOCUMENT_PATHS:
        assert keyed_service.client.get(path).status_code == 200, path
    assert not ELSEWHERE.search(page.text)
    assert not ELSEWHERE.search(re.sub(r"//.*", "", start))
    assert all(each.startswith("data:") for each in in_style)
    assert "@import" not in style


def test_browser_is_told_to_load_nothing_from_elsewhere(keyed_service: Running) -> None:
    policy = keyed_service.client.get("/docs").headers["content-security-policy"]

    directives = dict(each.strip().split(" ", 1) for each in policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["script-src"] == directives["connect-src"] == "'self'"
    assert directives["frame-ancestors"] == "'none'"
    assert not re.search(r"https?:|\*|unsafe-eval", policy)


@pytest.mark.parametrize("path", SWAGGER_UI_5_34_0)
def test_asset_is_that_of_swagger_ui_itself(keyed_service: Running, path: str) -> None:
    content = keyed_service.client.get(path).content

    assert hashlib.sha256(content).hexdigest() == SWAGGER_UI_5_34_0[path]


def test_page_counts_as_one_route_and_nothing_beside_it_is_open(toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path, api_keys=KEY) as service:
        for path in sorted(DOCUMENT_PATHS):
            service.client.get(path)
        wait_for(  # a large file counts when all of it has left
            lambda: service.metric("retort_http_requests_total", route="/docs") >= len(DOCUMENT_PATHS) - 1
        )
        assert service.metric("retort_http_requests_total", route="/docs") == len(DOCUMENT_PATHS) - 1
        for path in (
            "/docs/", "/docs/../model", "/docs/%2e%2e/model", "/docs/swagger-ui.js", "/redoc", "/openapi.yaml",
        ):  # fmt: skip
            assert service.client.get(path).status_code == 401, path


def test_made_up_keys_do_not_lift_the_rate_of_the_open_page(toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path, api_keys=KEY, rate_per_s="0.1") as service:
        statuses = [
            service.client.get("/openapi.json", headers={"X-API-Key": f"made-up-{n}"}).status_code for n in range(9)
        ]
        own = service.client.get("/model", headers={"X-API-Key": KEY}).status_code

    assert statuses[0] == 200
    assert statuses.count(429) >= 7
    assert own == 200


def test_page_works_in_a_browser_and_sends_the_key_it_was_given(keyed_service: Running) -> None:
    operation = "#operations-model-read_model"
    with Browser() as browser:
        browser.open(f"{keyed_service.url}/docs")
        browser.click(f"{operation} .opblock-summary-control")
        browser.click(f"{operation} .try-out__btn")
        browser.click(f"{operation} .execute")
        without = browser.text(f"{operation} .live-responses-table tbody .response-col_status")
        browser.click(".auth-wrapper .authorize")
        browser.type(".auth-container input", KEY)
        browser.click(".auth-container .authorize")
        browser.click(".auth-container .btn-done")
        browser.click(f"{operation} .btn-clear")
        browser.click(f"{operation} .execute")
        with_key = browser.text(f"{operation} .live-responses-table tbody .response-col_status")
        n_operations, page = browser.count(".opblock"), browser.html()
        requested, complaints = browser.requested(), browser.complaints()

    assert n_operations == 26
    assert (without.split()[0], with_key.split()[0]) == ("401", "200")
    ours = ("data:", "chrome://", f"{keyed_service.url}/")  # chrome: the empty tab of the beginning
    assert [url for url in requested if not url.startswith(ours)] == []
    assert f"{keyed_service.url}/openapi.json" in requested
    assert [each for each in complaints if "401" not in each] == []
    page = re.sub(r"data:[^\"')]*", "", page)  # pictures that are in the page: base64 has slashes too
    outside = {
        each for each in ELSEWHERE.findall(page) if not each.startswith((keyed_service.url, "http://www.w3.org/"))
    }
    assert outside == set()
