"""Who asks: addresses behind proxies, and the hosts that are ours."""

import pytest

from service.access.caller import Hosts, Proxies, parse_networks
from service.errors import RequestError

TRUSTED = parse_networks("127.0.0.1, 10.0.0.0/8, ::1")


def forwarded(*values: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"x-forwarded-for", value) for value in values]


@pytest.mark.parametrize(
    ("client", "headers", "expected"),
    [
        ("9.9.9.9", forwarded(b"1.1.1.1"), "9.9.9.9"), ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", forwarded(b"1.1.1.1"), "1.1.1.1"), ("127.0.0.1", forwarded(b"6.6.6.6, 1.1.1.1"), "1.1.1.1"),
        ("127.0.0.1", forwarded(b"6.6.6.6", b"1.1.1.1, 10.1.2.3"), "1.1.1.1"),
        ("127.0.0.1", forwarded(b"10.0.0.7"), "10.0.0.7"), ("127.0.0.1", forwarded(b"no address"), "127.0.0.1"),
        ("127.0.0.1", forwarded(b"6.6.6.6, junk, 10.1.2.3"), "10.1.2.3"),
        ("::1", forwarded(b"2001:db8::1"), "2001:db8::1"),
        ("127.0.0.1", forwarded(b""), "127.0.0.1"),
    ],
)  # fmt: skip
def test_address_is_the_last_that_no_trusted_proxy_has(client: str, headers: list, expected: str) -> None:
    assert Proxies(TRUSTED).address_of(headers, (client, 1)) == expected


def test_nobody_is_believed_where_no_proxy_is_trusted() -> None:
    assert Proxies([]).address_of(forwarded(b"1.1.1.1"), ("127.0.0.1", 1)) == "127.0.0.1"
    assert Proxies([]).address_of([], None) == "-"


@pytest.mark.parametrize("text", ["10.0.0.0/99", "proxy", "1.2.3"])
def test_network_that_is_none_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_networks(text)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8000",
        "127.0.0.1:8000",
        "[::1]:8000",
        "192.168.1.7",
        "shop.localhost",
        "mine:80",
        "mine.",
    ],
)
def test_our_own_names_and_addresses_are_answered(host: str) -> None:
    Hosts(["mine"], is_on=True).check("/users/a", [(b"host", host.encode())])


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "evil.example:127.0.0.1", "127.0.0.1.evil.example", "", "[::1].evil"],
)
def test_foreign_names_are_not(host: str) -> None:
    with pytest.raises(RequestError, match="not served") as failure:
        Hosts(["mine"], is_on=True).check("/users/a", [(b"host", host.encode())])

    assert "evil" not in str(failure.value)


def test_probes_keys_and_a_star_ask_for_no_name() -> None:
    Hosts([], is_on=True).check("/livez", [(b"host", b"evil.example")])
    Hosts([], is_on=False).check("/users/a", [(b"host", b"evil.example")])
    Hosts(["*"], is_on=True).check("/users/a", [(b"host", b"evil.example")])
