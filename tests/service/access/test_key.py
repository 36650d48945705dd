"""Keys with scopes, and what they open."""

import pytest

from service.access.key import Keys, parse_key
from service.errors import RequestError

ROUTES = {
    "recommend": ("/recommend", "POST"), "events": ("/events", "POST"), "users.read": ("/users/a", "GET"),
    "users.erase": ("/users/a", "DELETE"), "model": ("/model", "GET"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "secret", "scopes"),
    [
        ("secret", b"secret", None), ("recommend:secret", b"secret", {"recommend"}),
        ("recommend+events:s:t", b"s:t", {"recommend", "events"}), ("users:k", b"k", {"users.read", "users.erase"}),
        ("users.erase+metrics:k", b"k", {"users.erase", "metrics"}), ("other:secret", b"other:secret", None),
        ("recommend+other:k", b"recommend+other:k", None), ("recommend:", b"recommend:", None), (":k", b":k", None),
    ],
)  # fmt: skip
def test_scopes_stand_before_the_key(text: str, secret: bytes, scopes: set[str] | None) -> None:
    key = parse_key(text)

    assert (key.secret, key.scopes) == (secret, scopes)


def opened(keys: Keys, secret: str) -> set[str]:
    """The scopes whose routes a key opens."""
    found = set()
    for scope, (path, method) in ROUTES.items():
        try:
            keys.check(path, method, [(b"x-api-key", secret.encode())])
        except RequestError as exc:
            assert exc.code == "wrong_scope"
            assert scope in exc.message
        else:
            found.add(scope)
    return found


def test_key_opens_its_scopes_and_no_other() -> None:
    keys = Keys(
        [parse_key(text) for text in ("all", "recommend+events:front", "users:privacy", "users.read:help")], "adm"
    )

    assert opened(keys, "all") == opened(keys, "adm") == set(ROUTES)
    assert opened(keys, "front") == {"recommend", "events"}
    assert opened(keys, "privacy") == {"users.read", "users.erase"}
    assert opened(keys, "help") == {"users.read"}


def test_metrics_are_open_until_a_key_is_for_them() -> None:
    Keys([parse_key("all")], "").check("/metrics", "GET", [])
    guarded = Keys([parse_key("metrics:scraper"), parse_key("recommend:front")], "")
    guarded.check("/metrics", "GET", [(b"x-api-key", b"scraper")])
    guarded.check("/livez", "GET", [])

    for headers in ([], [(b"x-api-key", b"front")]):
        with pytest.raises(RequestError):
            guarded.check("/metrics", "GET", headers)


def test_paths_that_do_not_exist_take_any_key_and_no_stranger() -> None:
    keys = Keys([parse_key("recommend:front")], "")
    keys.check("/nothing", "GET", [(b"x-api-key", b"front")])

    with pytest.raises(RequestError, match="send a key"):
        keys.check("/nothing", "GET", [])
