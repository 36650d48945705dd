"""Every screen of the page in a real Chromium, against a running service with a real store."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.bundle import Bundle
from tests.service.browser import Browser
from tests.service.page.axe import find_barriers, read_axe
from tests.service.running import ADMIN_KEY, KEY, Running, run_command, wait_for
from tests.service.toy import described_items, write_toy_sum
from training.loop.gate import Verdict
from training.loop.generation import note_verdict

SCREENS = ("try", "why", "whatif", "items", "models", "health")
WIDTHS = (1280, 390)
LIST = "#list .card"
SAMPLES = "return (await (await fetch('metrics/hour', { headers: given[0] })).json()).samples.length"
USER = "someone"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_toy_sum(tmp_path_factory.mktemp("bundle") / "bundle", items=described_items())


@pytest.fixture(scope="module")
def service(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(
        bundle.path, tmp_path_factory.mktemp("data"), api_keys=KEY, admin_key=ADMIN_KEY, budget_ms="50"
    ) as service:
        service.client.headers["X-API-Key"] = KEY
        service.send(*({"user_id": USER, "item_id": f"i{n}"} for n in (4, 9, 14)))
        yield service


@pytest.fixture(scope="module")
def window(service: Running) -> Iterator[Browser]:
    """A window that has been given the keys."""
    with Browser() as browser:
        browser.open(service.url)
        browser.type("dialog[open] input[name=key]", KEY)
        browser.type("dialog[open] input[name=admin]", ADMIN_KEY)
        browser.click("dialog[open] button[type=submit]")
        wait_for(lambda: browser.count(LIST) == 10)
        browser.requested()
        browser.complaints()  # that a key is needed
        yield browser


@pytest.fixture
def page(window: Browser, service: Running) -> Iterator[Browser]:
    """The window at the first screen, as if it were new; in the end nothing was asked of others or complained of."""
    window.resize(1280, 1000)
    window.open("about:blank")
    window.open(f"{service.url}/#try")
    wait_for(lambda: window.count(LIST) == 10)
    yield window
    assert [url for url in window.requested() if not url.startswith((f"{service.url}/", "about:", "data:"))] == []
    assert window.complaints() == []


def titles(browser: Browser, part: str) -> list[str]:
    return browser.run(
        "return [...document.querySelectorAll(given[0])].map((each) => each.innerText)", f"{part} .title"
    )["value"]


def go(browser: Browser, screen: str) -> None:
    browser.click(f"nav a[href='#{screen}']")
    assert wait_for(lambda: browser.count(f"nav a[href='#{screen}'][aria-current]"))


def titles_of(answer: dict[str, Any]) -> list[str]:
    return [f"title {item['item_id'][1:]}" for item in answer["items"]]


def test_a_list_is_that_of_the_service_with_its_receipt(page: Browser, service: Running) -> None:
    page.click(".pick[title=i2]")
    wait_for(lambda: page.count(".who .chip") == 1)

    assert wait_for(lambda: titles(page, "#list") == titles_of(service.recommend(history=["i2"], k=10)))
    wait_for(lambda: page.count("#receipt .level.full") == 1)
    receipt = page.text("#receipt")
    assert "of a budget of 50 ms" in receipt
    assert service.client.get("/model").json()["version"] in receipt
    assert "score" in receipt and "encode" in receipt
    assert "brand A" in page.text("#list")


def test_a_user_is_asked_for_by_id(page: Browser, service: Running) -> None:
    page.click(".switch button:last-child")
    page.type("input[name=user]", f"{USER}\ue007")  # Enter

    assert wait_for(lambda: titles(page, "#list") == titles_of(service.recommend(user_id=USER, k=10)))


def test_the_request_can_be_taken_along(page: Browser, service: Running) -> None:
    page.click(".pick[title=i2]")
    wait_for(lambda: '"history":["i2"]' in page.text("pre"))
    curl = page.text("pre")
    page.click(".switch[aria-label=Language] button:nth-child(2)")
    python = wait_for(lambda: (text := page.text("pre")).startswith("import os") and text)
    expected = [item["item_id"] for item in service.recommend(history=["i2"], k=10)["items"]]

    environment = {"RETORT_API_KEY": KEY, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", curl], env=environment, capture_output=True, text=True, check=True)
    assert [item["item_id"] for item in json.loads(done.stdout)["items"]] == expected
    done = subprocess.run([sys.executable, "-c", python], env=environment, capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in done.stdout.splitlines()] == expected
    assert KEY not in curl + python


def test_rules_change_the_second_list_only(page: Browser, service: Running) -> None:
    go(page, "whatif")
    wait_for(lambda: page.count("#after .card") == 10)
    plain = titles(page, "#before")
    page.click("#rules fieldset:nth-of-type(1) > button")
    page.type("#rules fieldset:nth-of-type(1) .row input", "B")
    expected = titles_of(service.recommend(history=[], k=10, filter={"brand": ["B"]}))

    assert wait_for(lambda: titles(page, "#after") == expected)
    assert titles(page, "#before") == plain == titles_of(service.recommend(history=[], k=10))
    assert page.count("#before .gone") == len(set(plain) - set(expected))
    assert page.count("#after .move.new") == len(set(expected) - set(plain))
    page.click("#rules fieldset:nth-of-type(3) > button")
    expected = titles_of(
        service.recommend(history=[], k=10, filter={"brand": ["B"]}, max_per=[{"attribute": "brand", "n": 1}])
    )
    assert wait_for(lambda: titles(page, "#after") == expected)
    assert "in the catalogue" in page.text("#after .funnel")


def test_the_trend_is_a_control(page: Browser, service: Running) -> None:
    page.click(".pick[title=i2]")
    wait_for(lambda: page.count(".who .chip") == 1)
    go(page, "whatif")
    wait_for(lambda: page.count("#after .card") == 10)
    find = "const slider = document.querySelector('input[name=trend]')"
    slide = f"{find}; slider.value = given[0]; slider.dispatchEvent(new Event('input'))"
    for trend in (0, 3):
        page.run(slide, str(trend))
        expected = titles_of(service.recommend(history=["i2"], k=10, trend=trend))
        assert wait_for(lambda expected=expected: titles(page, "#after") == expected)
        assert f"Trend × {trend}" in page.text("#rules")
    assert titles(page, "#before") == titles_of(service.recommend(history=["i2"], k=10))


def test_reasons_add_up_and_an_item_of_the_history_can_be_taken_away(page: Browser, service: Running) -> None:
    for n, item in enumerate(("i2", "i3"), start=1):
        page.type(".search input", item)
        wait_for(lambda: page.count(".pick") == 1)
        page.click(f".pick[title={item}]")
        wait_for(lambda n=n: page.count(".who .chip") == n)
    go(page, "why")
    wait_for(lambda: page.count("#reasons .score li") == 30)
    parts = service.recommend(history=["i2", "i3"], k=10, debug=True)["debug"]["parts"][0]
    numbers = page.run("return [...document.querySelectorAll('#reasons .score .number')].map((each) => each.innerText)")
    assert numbers["value"][:3] == [f"{value:.3f}" for value in parts.values()]

    because = page.text("#reasons .because")
    assert because.startswith("Because of title ") and "without it" in because

    page.click("#without .chip")
    expected = titles_of(service.recommend(history=["i3"], exclude=["i2"], k=10))
    assert wait_for(lambda: titles(page, "#reasons") == expected)
    assert page.count("#reasons .move") == 10
    assert page.count("#funnel .funnel li") == 5


def test_an_item_is_shown_with_what_goes_with_it(page: Browser) -> None:
    go(page, "items")
    page.click(".pick[title=i3]")

    assert wait_for(lambda: page.count("#neighbours .card") == 10)
    assert page.text("#item h2") == "title 3"
    assert "price 3.50" in page.text("#item")


def test_an_item_is_put_and_its_price_changes(page: Browser, service: Running) -> None:
    go(page, "items")
    for name, text in {"item_id": "i5", "title": "Brass reading lamp", "number price": "19.5"}.items():
        page.type(f"#new input[name='{name}']", text)
    page.click("#new button[type=submit]")
    wait_for(lambda: page.count("#item h2") and page.text("#item h2") == "Brass reading lamp")
    assert "price 19.50" in page.text("#item")
    page.run("document.querySelector(\"#item input[name='n price']\").value = '7.25'")
    page.click("#item form button")

    assert wait_for(lambda: "price 7.25" in page.text("#item"))
    assert service.client.get("/items/i5").json()["numbers"] == {"price": 7.25}
    page.type(".search input", "reading")
    assert wait_for(lambda: page.count(".pick[title=i5]") == 1)


def test_an_item_that_no_model_knows_is_live_at_once(page: Browser, service: Running) -> None:
    go(page, "items")
    for name, text in {"item_id": "new/1", "title": "Copper kettle", "like": "i3", "text brand": "A"}.items():
        page.type(f"#new input[name='{name}']", text)
    page.click("#new button[type=submit]")

    assert wait_for(lambda: page.count("#item h2") and page.text("#item h2") == "Copper kettle")
    assert wait_for(lambda: page.count("#neighbours .card") == 10)
    asked = {"history": ["i3"], "filter": {"brand": ["A"]}, "k": 200, "exclude_seen": False}
    assert "new/1" in [item["item_id"] for item in service.recommend(**asked)["items"]]
    page.type(".search input", "copper")
    assert wait_for(lambda: page.count(".pick[title='new/1']") == 1)


def test_rules_are_saved_as_a_scenario(page: Browser, service: Running) -> None:
    go(page, "whatif")
    wait_for(lambda: page.count("#after .card") == 10)
    page.click("#rules fieldset:nth-of-type(3) > button")
    page.type("input[name=name]", "a shelf / 1\ue007")  # Enter

    assert wait_for(lambda: page.count("#rules [role=status]") and "a shelf / 1" in page.text("#rules [role=status]"))
    named = service.recommend(history=["i2"], k=10, scenario="a shelf / 1")["items"]
    rules = {"max_per": service.client.get("/scenarios/a%20shelf%20%2F%201").json()["scenario"]["max_per"]}
    assert [item["item_id"] for item in named] == [
        item["item_id"] for item in service.recommend(history=["i2"], k=10, **rules)["items"]
    ]


def test_a_published_version_is_made_live_once_it_is_said_what_changes(
    page: Browser, service: Running, tmp_path: Path
) -> None:
    other = write_toy_sum(tmp_path / "other", seed=5, items=described_items())
    note_verdict(other.path, Verdict(True, "published: NDCG@10 0.1234 against 0.1230 of the live model", 700))
    done = run_command("publish", str(other.path), "--data-dir", str(service.data_dir), "--no-activate")
    assert done.returncode == 0, done.stderr
    version = other.manifest.version
    go(page, "models")
    wait_for(lambda: page.count("#published td button"))
    assert page.text("#published .gate") == "gate published: NDCG@10 0.1234 against 0.1230 of the live model"
    page.click("#published td button")
    assert wait_for(lambda: page.count("dialog[open] .comparison .facts"), timeout_s=90)
    asked = {"json": {"version": version, "users": 50, "k": 10}, "headers": {"X-API-Key": ADMIN_KEY}, "timeout": 60}
    found = service.client.post("/model/compare", **asked).json()
    told = page.text("dialog[open] .comparison")

    assert f"{found['users']} users of the store" in told
    assert f"{100 * found['overlap']:.0f} %" in told and f"{100 * found['first_changes']:.0f} %" in told
    assert f"{found['coming'][0]['title']} ({found['coming'][0]['users']})" in told
    page.run("document.querySelector('dialog[open] details').open = true")
    assert page.count("dialog[open] .example") == len(found["examples"])
    assert find_barriers(page, read_axe()) == []
    page.complaints()  # that axe itself writes styles to measure something
    page.click("dialog[open] .row button")
    assert wait_for(lambda: "live" in page.text("#published tbody"))
    wait_for(lambda: service.client.get("/model").json()["version"] == version, timeout_s=90)


def test_the_last_hour_is_drawn(page: Browser, service: Running) -> None:
    headers = {"X-API-Key": KEY}
    wait_for(lambda: page.run(SAMPLES, headers)["value"] >= 2, timeout_s=40)
    go(page, "health")

    assert wait_for(lambda: page.count(".plot canvas") == 4)
    assert "50 ms" in page.text(".tiles")
    assert "level full" in page.text("#answers")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_every_screen_is_for_everybody(page: Browser, width: int, scheme: str) -> None:
    axe = read_axe()
    page.resize(width, 900)
    page.like(scheme)
    found = {}
    for screen in SCREENS:
        go(page, screen)
        wait_for(lambda: page.count(".part, .tiles"))
        wait_for(lambda: not page.run("return document.body.innerText.includes('undefined')")["value"])
        assert page.complaints() == []
        found[screen] = find_barriers(page, axe)
        page.complaints()  # that axe itself writes styles to measure something
        inside = page.run("return document.documentElement.scrollWidth <= innerWidth")
        assert inside["value"], f"{screen} is wider than the window"

    assert found == {screen: [] for screen in SCREENS}


def test_a_keyboard_is_enough(page: Browser) -> None:
    page.run("document.querySelector(\"nav a[href='#models']\").focus()")
    page.run("document.activeElement.click()")
    wait_for(lambda: page.count("#served"))
    skipped = page.run("document.querySelector('.skip').click(); return document.activeElement.id")

    assert skipped["value"] == "main"
    assert page.run("return document.querySelectorAll('[onclick]:not(a, button)').length")["value"] == 0


def test_an_address_brings_the_admin_key_and_does_not_keep_it(service: Running) -> None:
    with Browser() as browser:
        browser.open(f"{service.url}/#admin=wrong-key-of-an-earlier-service")
        wait_for(lambda: browser.count("dialog[open]") and "wrong_key" in browser.text("main .trouble"))
        browser.open(f"{service.url}/#admin={ADMIN_KEY}")  # typed into the same window
        wait_for(lambda: browser.count(LIST) == 10)
        go(browser, "models")

        assert browser.run("return location.href")["value"] == f"{service.url}/#models"
        assert browser.run("return Object.entries(sessionStorage)")["value"] == [["retort-admin-key", ADMIN_KEY]]
        assert [url for url in browser.requested() if ADMIN_KEY in url and "#" not in url] == []
        browser.run("history.back()")
        wait_for(lambda: browser.count(LIST) == 10)
        assert ADMIN_KEY not in browser.run("return location.href")["value"]


def test_it_opens_within_a_second(page: Browser, service: Running) -> None:
    def took(time: int) -> float:
        page.open(f"{service.url}/?again={time}")
        wait_for(lambda: page.count(LIST) == 10)
        ended: float = page.run("return performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")[
            "value"
        ]
        return ended

    assert min(map(took, range(3))) < 1000
