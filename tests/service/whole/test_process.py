"""Starting, stopping, keys, logs, metrics and the commands, with real processes."""

import csv
import gzip
import json
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.errors import REASONS
from service.metrics import METHODS, ROUTES
from service.store.embedded import Embedded, socket_path
from tests.service.running import Proxy, Running, is_alive, run_command, wait_for
from tests.service.toy import mean_encoder, write_toy

SECRET = "s3cret-key-that-must-not-leak"
ADMIN = "4dmin-key-that-must-not-leak"
REDIS_SECRET = "r3dis-password-that-must-not-leak"


def test_keys_open_what_they_should_and_nothing_else(toy_bundle: Path, tmp_path: Path) -> None:
    keys = {"api_keys": f"first-key,{SECRET}", "admin_key": ADMIN}
    bearer = {"none": {}, "wrong": {"Authorization": "Bearer nope"}, "key": {"Authorization": f"Bearer {SECRET}"},
              "x": {"X-API-Key": "first-key"}, "admin": {"X-API-Key": ADMIN},
              "scheme": {"Authorization": f"Basic {SECRET}"},
              "prefix": {"X-API-Key": SECRET[:-1]}}  # fmt: skip
    expected = {
        ("GET", "/livez"): dict.fromkeys(bearer, 200),
        ("GET", "/readyz"): dict.fromkeys(bearer, 200),
        ("GET", "/metrics"): dict.fromkeys(bearer, 200),
        ("GET", "/docs"): dict.fromkeys(bearer, 200),
        ("GET", "/"): dict.fromkeys(bearer, 200),
        ("GET", "/openapi.json"): dict.fromkeys(bearer, 200),
        **{
            (method, path): {"none": 401, "wrong": 403, "key": ok, "x": ok, "admin": ok, "scheme": 401, "prefix": 403}
            for method, path, ok in [
                ("POST", "/recommend", 200), ("POST", "/events", 200), ("GET", "/model", 200), ("GET", "/users/u", 200),
                ("GET", "/model/versions", 200), ("GET", "/metrics/hour", 200),
                ("DELETE", "/users/u", 200), ("GET", "/docs/no", 404), ("GET", "/no", 404),
                ("POST", "/similar", 200), ("POST", "/page", 200), ("POST", "/recommend/batch", 200),
                ("GET", "/scenarios", 200), ("GET", "/scenarios/no", 404),
            ]
        },
        ("POST", "/model/activate"): {
            "none": 401, "wrong": 403, "key": 403, "x": 403, "admin": 404, "scheme": 401, "prefix": 403,
        },
    }  # fmt: skip
    bodies = {
        "/recommend": {"user_id": "u"}, "/similar": {"item_id": "i1"},
        "/page": {"user_id": "u", "slots": [{"name": "a"}]}, "/recommend/batch": {"requests": [{"user_id": "u"}]},
        "/events": {"events": [{"user_id": "u", "item_id": "i1"}]},
        "/model/activate": {"version": "0" * 16},
    }  # fmt: skip
    with Running(toy_bundle, tmp_path, **keys) as service:
        found = {
            (method, path): {
                name: service.client.request(method, path, json=bodies.get(path), headers=headers).status_code
                for name, headers in bearer.items()
            }
            for method, path in expected
        }
        lines = json.dumps(service.log_lines())
    for answered in found.values():  # after ten wrong keys in a second the others are only told to wait
        answered.update({name: 403 for name in ("wrong", "prefix") if answered[name] == 429})

    assert found == expected
    assert SECRET not in lines and ADMIN not in lines and "first-key" not in lines


def test_refuses_to_listen_beyond_loopback_without_keys(toy_bundle: Path, tmp_path: Path) -> None:
    done = run_command("--bundle", str(toy_bundle), "--host", "0.0.0.0", "--port", "0", "--data-dir", str(tmp_path))

    assert done.returncode == 2
    assert "RETORT_API_KEYS" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("environment", [{"api_keys": "k" * 16}, {"allow_anonymous": "1"}])
def test_listens_beyond_loopback_when_told_how(toy_bundle: Path, tmp_path: Path, environment: dict) -> None:
    with Running(toy_bundle, tmp_path, "--host", "0.0.0.0", **environment) as service:
        port = service.url.rpartition(":")[2]
        assert httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200


def test_password_of_the_store_is_not_logged(toy_bundle: Path, tmp_path: Path) -> None:
    url = f"redis://:{REDIS_SECRET}@127.0.0.1:1/0"
    with Running(toy_bundle, tmp_path, redis_url=url) as service:
        response = service.client.post("/events", json={"events": [{"user_id": "u", "item_id": "i1"}]})
        lines = json.dumps(service.log_lines())

    assert response.status_code == 503
    assert REDIS_SECRET not in lines + response.text


@pytest.mark.parametrize("url", [f"redis://:{REDIS_SECRET}@host:port/0", f"http://{REDIS_SECRET}"])
def test_bad_store_url_is_refused_without_being_quoted(toy_bundle: Path, tmp_path: Path, url: str) -> None:
    done = run_command("--bundle", str(toy_bundle), "--port", "0", "--data-dir", str(tmp_path), redis_url=url)

    assert done.returncode == 2
    assert "RETORT_REDIS_URL" in done.stderr
    assert REDIS_SECRET not in done.stderr
    assert "Traceback" not in done.stderr


def test_store_that_wants_a_password_is_down_and_counted_as_noauth(toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path) as service:
        store = service.store()
        store.config_set("requirepass", "changed")
        store.client_kill_filter(_type="normal", skipme=True)
        wait_for(lambda: service.recommend(user_id="u")["quality"]["reasons"] == ["breaker_open"])
        n_noauth = service.metric("retort_store_errors_total", kind="noauth")
        store.config_set("requirepass", "")
        store.close()
        wait_for(lambda: service.recommend(user_id="u")["quality"]["reasons"] == ["cold_user"])

    assert n_noauth > 0


def test_a_bad_setting_is_named_without_its_value(toy_bundle: Path) -> None:
    done = run_command("--bundle", str(toy_bundle), port="no-port-at-all")

    assert done.returncode == 2
    assert "RETORT_PORT" in done.stderr
    assert "no-port-at-all" not in done.stderr


@pytest.mark.parametrize("name", ["api_keys", "admin_key"])
@pytest.mark.parametrize("key", ["cl\u00e9", "two\nlines"])
def test_a_key_that_no_header_carries_is_refused(toy_bundle: Path, name: str, key: str) -> None:
    done = run_command("--bundle", str(toy_bundle), **{name: key})

    assert done.returncode == 2
    assert f"RETORT_{name.upper()}: Value error, keys travel in a header" in done.stderr
    assert key not in done.stderr


def test_every_log_line_is_json_and_carries_the_recommendation_id(toy_bundle: Path, tmp_path: Path) -> None:
    user = 'a"b\u202e{}\\'
    with Running(toy_bundle, tmp_path, log_users="id") as service:
        ids = [service.recommend(user_id=user)["recommendation_id"] for _ in range(3)]
        lines = wait_for(lambda: [line for line in service.log_lines() if "recommendation_id" in line][2:])
        requests = [line for line in service.log_lines() if line.get("recommendation_id") in ids]

    assert lines
    assert [line["recommendation_id"] for line in requests] == ids
    assert {(line["level"], line["reason"], line["status"], line["user_id"]) for line in requests} == {
        ("fallback", "cold_user", 200, user)
    }


def lines_of(service: Running, recommendation_id: str) -> list[dict[str, object]]:
    return wait_for(lambda: [x for x in service.log_lines() if x.get("recommendation_id") == recommendation_id])


def test_the_log_names_users_by_an_alias_that_lasts(toy_bundle: Path, tmp_path: Path) -> None:
    said, named = set(), set()
    for workers in ("1", "2"):
        with Running(toy_bundle, tmp_path, "--workers", workers, log_level="debug") as service:
            for _ in range(6):
                with httpx.Client(base_url=service.url) as caller:
                    answer = caller.post("/recommend", json={"user_id": "anna-secret"}).json()
                    named.add(caller.get("/users/anna-secret").json()["log_name"])
                said |= {line["user"] for line in lines_of(service, answer["recommendation_id"])}
            text = service.log_text()

    assert len(said) == 1
    assert said == named
    assert "anna-secret" not in text


def test_the_log_may_name_nobody_or_go_by_a_key_of_ones_own(toy_bundle: Path, tmp_path: Path) -> None:
    found = []
    for place, settings in enumerate([{"log_users": "none"}, {"log_key": "k"}, {"log_key": "k"}, {"log_key": "other"}]):
        with Running(toy_bundle, tmp_path / str(place), **settings) as service:
            (line,) = lines_of(service, service.recommend(user_id="anna")["recommendation_id"])
            found.append(line.get("user"))
            assert service.client.get("/users/anna").json()["log_name"] == line.get("user")

    assert found[0] is None
    assert found[1] == found[2] != found[3]


def test_metrics_parse_and_explain_every_request(toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path) as service:
        for n in range(30):
            service.ask(user_id=f"random-{n}")
        for n in range(20):
            service.ask(history=[f"i{n}"])
        service.client.post("/recommend", json={})
        service.client.get("/" + "x" * 50)
        service.client.request("PROPFIND", "/coffee")
        service.send(
            {"user_id": "m", "item_id": "i1", "timestamp": 1}, {"user_id": "m", "item_id": "i1", "timestamp": 1}, {}
        )
        text = service.client.get("/metrics").text

    families = list(text_string_to_metric_families(text))
    samples = [sample for family in families for sample in family.samples]
    total = {
        name: sum(s.value for s in samples if s.name == name)
        for name in ("retort_recommendations_total", "retort_within_budget_total", "retort_batch_size_count")
    }
    requests = {
        (s.labels["route"], s.labels["code"]): s.value for s in samples if s.name == "retort_http_requests_total"
    }
    assert total == {
        "retort_recommendations_total": 50, "retort_within_budget_total": 50, "retort_batch_size_count": 20,
    }  # fmt: skip
    assert requests["/recommend", "200"] == 50
    assert requests["/recommend", "422"] == 1
    assert (
        sum(s.value for s in samples if s.name == "retort_http_requests_total" and s.labels["route"] == "unmatched")
        == 2
    )
    assert {s.labels["result"]: s.value for s in samples if s.name == "retort_events_total"} == {
        "accepted": 1, "duplicate": 1, "invalid": 1, "future": 0, "too_old": 0, "unavailable": 0,
    }  # fmt: skip
    assert {s.labels["route"] for s in samples if "route" in s.labels} <= set(ROUTES)
    assert {s.labels["method"] for s in samples if "method" in s.labels} <= {*METHODS, "OTHER"}
    assert {s.labels["reason"] for s in samples if s.name == "retort_recommendations_total"} <= {*REASONS, "none"}
    assert all(family.name.startswith("retort_") for family in families)
    assert "_created" not in text
    assert "random-" not in text
    assert len(samples) < 1500


def test_sigterm_says_not_ready_serves_on_and_exits_with_0(toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path, drain_s="2") as service:
        store_pid = service.store_pid()
        service.process.send_signal(signal.SIGTERM)
        wait_for(lambda: service.client.get("/readyz").status_code == 503, 1.5)
        answer = service.recommend(history=["i1"])
        exit_code = service.process.wait(10)

        assert answer["quality"]["level"] == "full"
        assert exit_code == 0
        assert not is_alive(store_pid)
        assert not socket_path(tmp_path).exists()


def is_refused(host: str, port: int) -> bool:
    """Whether nobody listens any more."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return True
    return False


def test_request_in_progress_at_sigterm_is_answered(toy_bundle: Path, tmp_path: Path) -> None:
    body = b'{"history": ["i1"], "k": 3}'
    head = (
        b"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    )
    with Running(toy_bundle, tmp_path, drain_s="0") as service:
        host, port = service.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as caller:
            caller.sendall(head % len(body) + body[:5])
            wait_for(lambda: service.metric("retort_http_requests_in_flight") == 2)
            service.process.send_signal(signal.SIGTERM)
            wait_for(lambda: is_refused(host, int(port)))
            caller.sendall(body[5:])
            answer = b"".join(iter(lambda: caller.recv(4096), b""))
        exit_code = service.process.wait(10)

    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.count(b'"item_id"') == 3
    assert exit_code == 0


def test_restart_keeps_histories(toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path) as service:
        service.send({"user_id": "kept", "item_id": "i4", "timestamp": 5})
    with Running(toy_bundle, tmp_path) as service:
        kept = service.client.get("/users/kept").json()

    assert [(event["item_id"], event["timestamp"]) for event in kept["history"]] == [("i4", 5.0)]


def test_erased_user_leaves_nothing_behind(toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path) as service:
        service.send(*[{"user_id": user, "item_id": "i4", "timestamp": 5} for user in ("gone", "stays")])
        service.recommend(user_id="gone")
        store = service.store()
        wait_for(lambda: store.exists("retort:{gone}:e"))
        answer = service.client.delete("/users/gone").json()
        keys = sorted(key for key in store.keys("*") if b":release:" not in key)
        entries = [orjson.loads(fields[b"event"])["user_id"] for _, fields in store.xrange("retort:events")]
        store.close()
        os.kill(service.store_pid(), signal.SIGSTOP)
        forgotten = service.ask(user_id="gone")["quality"]
        os.kill(service.store_pid(), signal.SIGCONT)

    assert answer == {
        "user_id": "gone", "keys_erased": 2, "event_stream": {"erased": 1, "complete": True},
        "memory": {"complete": True, "gone_within_s": 0},
    }  # fmt: skip
    assert keys == [
        b"retort:erasures", b"retort:events", b"retort:{retort:erasures}:listeners", b"retort:{retort:events}:account",
        b"retort:{retort:replay}:erased",  # for a minute, of one in 4,096 users: this one's share
        b"retort:{stays}:e", b"retort:{stays}:h", b"retort:{stays}:s",
    ]  # fmt: skip
    assert entries == ["stays"]
    assert forgotten == {"level": "fallback", "reasons": ["store_timeout"]}


def test_second_service_on_the_same_data_is_refused(shared_service: Running, toy_bundle: Path) -> None:
    done = run_command("--bundle", str(toy_bundle), "--port", "0", "--data-dir", str(shared_service.data_dir))

    assert done.returncode == 2
    assert "in use by another retort process" in done.stderr


def test_orphan_of_a_killed_owner_is_ended_at_start(toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path) as service:
        orphan = service.store_pid()
        os.kill(orphan, signal.SIGSTOP)  # it cannot act on its owner's death
        service.kill()
        assert is_alive(orphan)
        service.start()

        assert not is_alive(orphan)
        assert service.store_pid() != orphan
        assert service.client.get("/readyz").json()["store"]["is_up"] is True


def test_socket_of_a_deep_data_directory_stays_short(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)

    assert len(str(socket_path(deep))) < 108
    assert Embedded(deep).url == f"unix://{socket_path(deep)}"


def test_wrong_bundle_exits_with_2_and_one_line(toy_bundle: Path, tmp_path: Path) -> None:
    done = run_command("serve", "--bundle", str(tmp_path / "nothing"), "--data-dir", str(tmp_path))

    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no manifest.json here" in done.stderr


@pytest.mark.parametrize("scale", [2.0, float("nan")])
def test_bundle_that_does_not_reproduce_its_golden_answers_is_not_served(tmp_path: Path, scale: float) -> None:
    write_toy(tmp_path / "bundle", encoder=mean_encoder(scale=scale))

    done = run_command("--bundle", str(tmp_path / "bundle"), "--port", "0", "--data-dir", str(tmp_path / "data"))

    assert done.returncode == 2
    assert "golden answer" in done.stderr


@pytest.mark.parametrize("encoder", [b"not onnx", mean_encoder(dim=4)])
def test_bundle_with_a_wrong_encoder_is_not_served(tmp_path: Path, encoder: bytes) -> None:
    write_toy(tmp_path / "bundle", encoder=encoder)

    done = run_command("--bundle", str(tmp_path / "bundle"), "--port", "0", "--data-dir", str(tmp_path / "data"))

    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("is_running", [False, True])
@pytest.mark.parametrize("name", ["histories.jsonl.gz", "histories.csv", "histories.jsonl"])
def test_import_loads_histories_once_and_leaves_the_stream_alone(
    toy_bundle: Path, tmp_path: Path, is_running: bool, name: str
) -> None:
    rows = [(f"u{n % 7}", f"i{n % 50}", 1000 + n / 4) for n in range(700)]
    path = tmp_path / name
    text = (
        "user_id,item_id,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows)
        if name.endswith(".csv")
        else "".join(json.dumps({"user_id": u, "item_id": i, "timestamp": t}) + "\n" for u, i, t in rows)
    )
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    data = str(tmp_path / "data")

    if not is_running:
        first = run_command("import", str(path), "--data-dir", data)
    with Running(toy_bundle, tmp_path / "data") as service:
        if is_running:
            first = run_command("import", str(path), "--data-dir", data)
        second = run_command("import", str(path), "--data-dir", data)
        kept = service.client.get("/users/u3").json()
        answer = service.recommend(user_id="u3")
        inline = service.recommend(history=[i for u, i, _ in rows if u == "u3"])
        exported = run_command("export", str(tmp_path / "out.jsonl"), "--data-dir", data)

    assert (first.returncode, second.returncode, exported.returncode) == (0, 0, 0), first.stderr
    assert "imported 700 events" in first.stderr
    assert "imported 0 events; 700 were already there" in second.stderr
    assert [(event["item_id"], event["timestamp"]) for event in kept["history"]] == [
        (i, t) for u, i, t in rows if u == "u3"
    ]
    assert answer["items"] == inline["items"]
    assert (tmp_path / "out.jsonl").read_text() == ""


def test_import_names_bad_lines_and_stops_past_1_percent(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    good = '{"user_id":"u","item_id":"i1","timestamp":%d}\n'
    path.write_text("".join(good % n for n in range(20)) + '{"user_id":"u"}\n' + "{\n" + good % 1e12)

    done = run_command("import", str(path), "--data-dir", str(tmp_path / "data"))

    assert done.returncode == 2
    assert "h.jsonl:21: no item_id" in done.stderr
    assert "h.jsonl:22: not JSON" in done.stderr
    assert "milliseconds" in done.stderr


def test_export_writes_each_accepted_event_once(toy_bundle: Path, tmp_path: Path) -> None:
    full = {"user_id": "e", "item_id": "i1", "timestamp": 12.5, "type": "purchase", "value": 3.0,
            "recommendation_id": "r", "event_id": "x"}  # fmt: skip
    with Running(toy_bundle, tmp_path / "data", history_events="2") as service:
        for _ in range(2):
            service.send(full, {"user_id": "e", "item_id": "0444778", "timestamp": 9})
        service.send(*[{"user_id": "old", "item_id": f"i{n}", "timestamp": 100 + n} for n in range(3)])
        service.send({"user_id": "old", "item_id": "i0", "timestamp": 100})  # trimmed away, so refused
        names = ["out.jsonl", "out.csv", "out.jsonl.gz"]
        codes = [
            run_command("export", str(tmp_path / n), "--data-dir", str(tmp_path / "data")).returncode for n in names
        ]

    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    table = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert codes == [0, 0, 0]
    assert lines[0] == {"user_id": "e", "item_id": "i1", "timestamp": 12.5, "event": "purchase", "weight": 3.0,
                        "recommendation_id": "r", "event_id": "x"}  # fmt: skip
    assert lines[1] == {"user_id": "e", "item_id": "0444778", "timestamp": 9, "weight": 1}
    assert {row["weight"] for row in table} == {"3.0", "1"}
    assert len(lines) == len(table) == 5
    assert gzip.decompress((tmp_path / "out.jsonl.gz").read_bytes()).decode() == (tmp_path / "out.jsonl").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out.csv", "out.jsonl", "out.jsonl.gz"]


def test_overload_is_refused_at_once_with_a_hint(toy_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.sock"
    with (
        Running(toy_bundle, tmp_path / "data"),
        Proxy(path, socket_path(tmp_path / "data")) as proxy,
        Running(
            toy_bundle,
            tmp_path / "x",
            redis_url=f"unix://{path}",
            max_in_flight="1",
            store_share=".9",
        ) as service,
        ThreadPoolExecutor(1) as pool,
    ):
        proxy.delay_s = 0.8
        held = pool.submit(service.recommend, user_id="slow")
        wait_for(lambda: service.metric("retort_http_requests_in_flight") == 2)
        start = time.monotonic()
        response = service.client.post("/recommend", json={"history": ["i1"]})
        seconds = time.monotonic() - start
        alive = service.client.get("/livez").status_code

        assert (response.status_code, response.json()["error"]["code"]) == (503, "overloaded")
        assert response.headers["retry-after"] == "1"
        assert alive == 200
        assert seconds < 0.5  # not once the other is answered
        assert service.metric("retort_shed_total", reason="concurrency") == 1
        assert service.metric("retort_http_requests_total", code="503", route="/recommend") == 1
        assert held.result()["user_id"] == "slow"


def test_bodies_that_do_not_come_hold_no_place_among_the_answers(toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path, max_in_flight="4") as service:
        host, _, port = service.url.removeprefix("http://").partition(":")
        head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 19\r\n\r\n{"
        holders = [socket.create_connection((host, int(port)), timeout=10) for _ in range(260)]
        for number, holder in enumerate(holders):
            holder.sendall(head % (b"/recommend", b"/events")[number % 2])
        wait_for(lambda: service.metric("retort_http_requests_in_flight") == 261)

        statuses = [service.client.post("/recommend", json={"history": ["i1"]}).status_code for _ in range(20)]
        statuses += [service.client.get("/users/u").status_code for _ in range(5)]
        for holder in holders:
            holder.close()

        assert statuses == [200] * 25
        assert wait_for(lambda: service.metric("retort_http_requests_in_flight") == 1)


def test_caller_over_its_rate_gets_429_and_others_do_not(toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path, rate_per_s="2", api_keys="one,other") as service:
        asked = [
            service.client.post("/recommend", json={"history": ["i1"]}, headers={"X-API-Key": key})
            for key in ("one", "one", "one", "one", "other")
        ]
        probes = [service.client.get("/livez").status_code for _ in range(5)]

    assert [response.status_code for response in asked] == [200, 200, 429, 429, 200]
    assert asked[2].json()["error"]["code"] == "rate_limited"
    assert asked[2].headers["retry-after"] == "1"
    assert probes == [200] * 5


def test_invented_keys_do_not_lift_the_rate_where_no_key_is_set(toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path, rate_per_s="2") as service:
        codes = [
            service.client.post("/recommend", json={"history": ["i1"]}, headers={"X-API-Key": f"k{n}"}).status_code
            for n in range(8)
        ]

    assert 429 in codes
