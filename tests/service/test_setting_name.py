"""RETORT_ names of an environment: settings, the addresses of Kubernetes Services, and mistakes."""

import pytest

from service.setting_name import find_addresses, find_mistakes, is_of_kubernetes

KNOWN = ["RETORT_API_KEYS", "RETORT_BUDGET_MS", "RETORT_PORT", "RETORT_REDIS_URL", "RETORT_REQUIRE_SIGNATURE"]
SERVICE = {
    "RETORT_SERVICE_HOST": "10.96.0.12",
    "RETORT_SERVICE_PORT": "8000",
    "RETORT_SERVICE_PORT_HTTP": "8000",
    "RETORT_PORT": "tcp://10.96.0.12:8000",
    "RETORT_PORT_8000_TCP": "tcp://10.96.0.12:8000",
    "RETORT_PORT_8000_TCP_PROTO": "tcp",
    "RETORT_PORT_8000_TCP_PORT": "8000",
    "RETORT_PORT_8000_TCP_ADDR": "10.96.0.12",
}
"""What the kubelet puts into a container for a Service named retort with the port 8000, named http."""


def renamed(prefix: str) -> dict[str, str]:
    """The variables of a Service whose name in capitals is prefix."""
    return {name.replace("RETORT", prefix, 1): value for name, value in SERVICE.items()}


@pytest.mark.parametrize("prefix", ["RETORT", "RETORT_REDIS", "RETORT_API_V2"])
def test_every_variable_of_a_kubernetes_service_is_an_address_and_no_mistake(prefix: str) -> None:
    environment = renamed(prefix) | {"PATH": "/bin", "RETORT_BUDGET_MS": "20"}

    assert find_addresses(environment) == sorted(renamed(prefix))
    assert find_mistakes(environment, KNOWN) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RETORT_PORT", "udp://10.0.0.1:53"),
        ("RETORT_PORT_53_UDP", "udp://10.0.0.1:53"),
        ("RETORT_PORT_53_UDP_ADDR", "fd00:10:96::1"),
        ("RETORT_PORT", "tcp://[fd00:10:96::1]:8000"),
        ("RETORT_SERVICE_HOST", "fd00:10:96::1"),
        ("RETORT_PORT_9_SCTP_PROTO", "sctp"),
    ],
)
def test_addresses_of_other_protocols_and_families_are_known_too(name: str, value: str) -> None:
    assert is_of_kubernetes(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RETORT_PORT", "8000"),
        ("RETORT_PORT", "http://10.0.0.1"),
        ("RETORT_SERVICE_PORT", "http"),
        ("RETORT_PORT_8000_TCP_PROTO", "http"),
        ("RETORT_SERVICE_HOST", "two words"),
        ("RETORT_EXPORT", "tcp://10.0.0.1:80"),
        ("RETORT_REDIS_URL", "tcp://10.0.0.1:6379"),
        ("OTHER_PORT", "tcp://10.0.0.1:80"),
    ],
)
def test_what_only_looks_like_an_address_is_none(name: str, value: str) -> None:
    assert not is_of_kubernetes(name, value)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("RETORT_API_KEY", "RETORT_API_KEYS"),
        ("RETORT_APIKEYS", "RETORT_API_KEYS"),
        ("RETORT_BUDGETMS", "RETORT_BUDGET_MS"),
        ("RETORT_BUDGET", "RETORT_BUDGET_MS"),
        ("RETORT_REDIS", "RETORT_REDIS_URL"),
        ("RETORT_PORTS", "RETORT_PORT"),
        ("retort_api_key", "RETORT_API_KEYS"),
        ("RETORT_", "RETORT_"),
    ],
)
def test_a_name_that_is_no_setting_is_a_mistake_with_the_nearest_one(name: str, nearest: str) -> None:
    mistakes = find_mistakes({name: "x", "RETORTED": "x", "XRETORT_Y": "x"}, KNOWN)

    assert list(mistakes) == [name]
    assert mistakes[name].startswith(nearest)


def test_a_setting_in_small_letters_is_one() -> None:
    assert find_mistakes({"retort_api_keys": "x", "Retort_Port": "1"}, KNOWN) == {}


def test_what_the_tests_require_is_no_mistake_unless_a_setting_was_meant() -> None:
    environment = {"RETORT_REQUIRE_PROMETHEUS": "1", "RETORT_REQUIRE_SIGNATUR": "1"}

    assert find_mistakes(environment, KNOWN) == {"RETORT_REQUIRE_SIGNATUR": "RETORT_REQUIRE_SIGNATURE"}
