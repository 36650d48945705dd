"""The options of RETORT_REDIS_URL: those that are taken, and those that would break what is built on them."""

import re
from pathlib import Path

import pytest

from service.errors import StartError
from service.store.address import open_address
from service.store.option import SINGLE, TLS, read_options

FORMS = ["redis://h{}", "rediss://h{}", "unix:///s{}", "redis+sentinel://h/n{}", "redis+cluster://h{}",
         "rediss+sentinel://h/n{}", "rediss+cluster://h{}"]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "name",
    ["decode_responses", "protocol", "socket_timeout", "socket_connect_timeout", "retry_on_timeout", "retry",
     "max_connections", "health_check_interval", "encoding", "timeout", "single_connection_client"],
)  # fmt: skip
def test_option_that_would_break_the_service_is_refused_by_name(form: str, name: str) -> None:
    with pytest.raises(StartError, match=f"RETORT_REDIS_URL: the option {name} is not taken"):
        open_address(form.format(f"?{name}=1"), 4)


@pytest.mark.parametrize("form", FORMS)
def test_option_that_is_not_known_may_be_a_part_of_a_password_and_is_not_quoted(form: str) -> None:
    with pytest.raises(StartError) as caught:
        open_address(form.format("?hunter=2"), 4)

    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize("form", [form for form in FORMS if not form.startswith("rediss")])
def test_options_of_tls_need_tls(form: str) -> None:
    with pytest.raises(StartError, match="ssl_cert_reqs needs rediss"):
        open_address(form.format("?ssl_cert_reqs=none"), 4)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("ssl_ca_certs=/no/such/file", "ssl_ca_certs: the file cannot be read: No such file or directory"),
        ("ssl_ca_path=/no/such", "ssl_ca_path: there is no such directory"),
        ("ssl_cert_reqs=maybe", "ssl_cert_reqs: none, optional or required"),
        ("ssl_min_version=1.1", "ssl_min_version: 1.2 or 1.3"), ("ssl_check_hostname=perhaps", "1 or 0"),
        ("ssl_include_verify_flags=X", "ssl_include_verify_flags: Invalid"), ("db=one", "db: a number"),
        ("db", "name=value"), ("sentinel_password=x", "sentinel_password does not belong to this kind of address"),
    ],
)  # fmt: skip
def test_wrong_value_of_an_option_is_told(query: str, expected: str) -> None:
    with pytest.raises(StartError, match=f"RETORT_REDIS_URL: .*{re.escape(expected)}"):
        read_options(query, {**SINGLE, **TLS})


@pytest.mark.parametrize("text", ["1.2", "TLSv1.2", "tlsv1.2", "771"])
def test_version_of_tls_is_read_as_people_write_it(text: str) -> None:
    assert read_options(f"ssl_min_version={text}", TLS)["ssl_min_version"].name == "TLSv1_2"


def test_passwords_wherever_they_stand_are_known_as_secrets(tmp_path: Path) -> None:
    found = [
        open_address(url, 4).secrets
        for url in ("redis://:p%2Fw@h", "unix:///s?password=pw", "redis+sentinel://:a@h/n?sentinel_password=b",
                    "redis+cluster://u:c@h", "rediss+cluster://u:c@h?ssl_password=d")
    ]  # fmt: skip

    assert found == [("p/w",), ("pw",), ("a", "b"), ("c",), ("c", "d")]
