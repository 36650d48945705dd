"""Signed bundles: what is signed is followed; what is not, or was exchanged, is refused by name."""

import base64
import json
import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from service.bundle import MANIFEST
from service.errors import RefusedError, StartError
from service.release.signature import SigningKey, Trust, make_signing_key, parse_public_keys, read_signing_key
from tests.service.running import Running, run_command, wait_for
from tests.service.toy import write_toy

MANIFEST_TEXT = b'{"version": "0123456789abcdef"}'


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        make_signing_key(directory / name)
    return directory / "ours", directory / "theirs"


def trust_of(
    *trusted: SigningKey, namespace: str = "retort", is_required: bool = True, said: list | None = None
) -> Trust:
    told = said if said is not None else []
    return Trust(
        namespace, [key.public for key in trusted], is_required=is_required, on_unsigned=lambda: told.append("unsigned")
    )


def test_signature_by_a_trusted_key_is_accepted_and_any_of_several_is(keys: tuple[Path, Path]) -> None:
    ours, theirs = map(read_signing_key, keys)

    for key in (ours, theirs):
        trust_of(ours, theirs).check("v", MANIFEST_TEXT, key.sign("retort", MANIFEST_TEXT))


@pytest.mark.parametrize(
    "change",
    [
        lambda signature, key: None,
        lambda signature, key: "",
        lambda signature, key: "no base64 at all, é",
        lambda signature, key: signature[:-4],
        lambda signature, key: base64.b64encode(bytes(64)).decode(),
        lambda signature, key: key.sign("another", MANIFEST_TEXT),
        lambda signature, key: key.sign("retort", MANIFEST_TEXT + b" "),
        lambda signature, key: key.sign("retort\n", MANIFEST_TEXT),
        lambda signature, key: key.sign("retort", MANIFEST_TEXT)[::-1],
    ],
)
def test_every_other_signature_is_refused(
    keys: tuple[Path, Path], change: Callable[[str, SigningKey], str | None]
) -> None:
    ours = read_signing_key(keys[0])

    with pytest.raises(RefusedError) as caught:
        trust_of(ours).check("v", MANIFEST_TEXT, change(ours.sign("retort", MANIFEST_TEXT), ours))

    assert caught.value.result == "rejected_signature"


def test_signature_of_a_stranger_is_refused_even_where_none_is_required(keys: tuple[Path, Path]) -> None:
    ours, theirs = map(read_signing_key, keys)
    said: list[str] = []
    trust = trust_of(ours, is_required=False, said=said)

    with pytest.raises(RefusedError, match="none of the trusted keys"):
        trust.check("v", MANIFEST_TEXT, theirs.sign("retort", MANIFEST_TEXT))
    for _ in range(3):
        trust.check("v", MANIFEST_TEXT, None)

    assert said == ["unsigned"]


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_file_that_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)

    with pytest.raises(StartError, match="not an Ed25519 private key"):
        read_signing_key(path)


def test_private_key_is_its_owners_alone_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key"
    made = make_signing_key(path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_signing_key(path).public == made.public
    with pytest.raises(StartError, match="there already"):
        make_signing_key(path)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StartError):
        make_signing_key(tmp_path / "link")
    path.chmod(0o604)
    with pytest.raises(StartError, match="chmod 600"):
        read_signing_key(path)


@pytest.mark.parametrize("text", ["x", "AAAA", "é" * 44, base64.b64encode(bytes(31)).decode(), "A" * 44 + ",x"])
def test_text_that_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="public key"):
        parse_public_keys(text)


def test_keygen_prints_the_public_key(tmp_path: Path) -> None:
    done = run_command("keygen", str(tmp_path / "key"))
    again = run_command("keygen", str(tmp_path / "key"))

    (public,) = re.findall(r"^RETORT_TRUSTED_KEYS=(\S+)$", done.stdout, flags=re.MULTILINE)
    assert parse_public_keys(public) == (read_signing_key(tmp_path / "key").public,)
    assert (done.returncode, again.returncode) == (0, 2)
    assert "never overwritten" in again.stderr


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"require_signature": "1"}, "RETORT_TRUSTED_KEYS"),
        ({"trusted_keys": "not-a-key"}, "RETORT_TRUSTED_KEYS"),
        ({"require_signature": "maybe"}, "RETORT_REQUIRE_SIGNATURE"),
    ],
)
def test_settings_that_cannot_be_met_stop_the_start(environment: dict[str, str], named: str, toy_bundle: Path) -> None:
    done = run_command("serve", "--bundle", str(toy_bundle), **environment)

    assert done.returncode == 2
    assert named in done.stderr


def served(service: Running) -> str:
    return service.recommend(history=["i1"], k=1)["model_version"]


def refused(service: Running) -> list[dict]:
    return [line for line in service.log_lines() if line["event"] == "model_refused"]


def version_of(path: Path) -> str:
    return json.loads((path / MANIFEST).read_text())["version"]


def publish(service: Running, path: Path, *arguments: str, **environment: str) -> str:
    done = run_command("publish", str(path), "--data-dir", str(service.data_dir), *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return version_of(path)


def test_service_with_trusted_keys_follows_what_is_signed_and_nothing_else(
    toy_bundle: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    ours, theirs = map(read_signing_key, keys)
    one, other, third = (write_toy(tmp_path / name, seed=seed).path for name, seed in (("1", 31), ("2", 32), ("3", 33)))
    with Running(toy_bundle, tmp_path / "data", trusted_keys=ours.public_text) as service:
        signed = publish(service, one, "--signing-key", str(keys[0]))
        wait_for(lambda: served(service) == signed)
        assert not [line for line in service.log_lines() if line["event"] == "release_unsigned"]

        for arguments in ((), ("--signing-key", str(keys[1]))):
            n_before = len(refused(service))
            publish(service, other, *arguments)
            line = wait_for(lambda n=n_before: refused(service)[n:])[0]
            assert (line["result"], line["model_version"]) == ("rejected_signature", version_of(other))
        assert served(service) == signed

        exchanged = publish(service, third, "--no-activate", signing_key=str(keys[0]))
        store = service.store()
        table = json.loads(store.get(f"retort:release:{exchanged}:table"))
        table["signature"] = json.loads(store.get(f"retort:release:{signed}:table"))["signature"]
        store.set(f"retort:release:{exchanged}:table", json.dumps(table))
        n_before = len(refused(service))
        run_command("activate", exchanged, "--data-dir", str(service.data_dir))
        assert wait_for(lambda: refused(service)[n_before:])[0]["result"] == "rejected_signature"
        assert service.metric("retort_model_swaps_total", result="rejected_signature") == 3

        again = publish(service, third, signing_key=str(keys[0]))
        wait_for(lambda: served(service) == again)
    assert theirs.public != ours.public


def test_publish_does_not_upload_what_would_be_refused(
    toy_bundle: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    ours = read_signing_key(keys[0])
    for arguments, named in (((), "--signing-key"), (("--signing-key", str(keys[1])), "lacks the key's public half")):
        done = run_command(
            "publish", str(toy_bundle), "--data-dir", str(tmp_path), *arguments, trusted_keys=ours.public_text
        )

        assert done.returncode == 2
        assert named in done.stderr


def test_unsigned_version_is_followed_where_nobody_asks_and_that_is_said_once(toy_bundle: Path, tmp_path: Path) -> None:
    with Running(toy_bundle, tmp_path / "data") as service:
        for seed in (41, 42):
            version = publish(service, write_toy(tmp_path / str(seed), seed=seed).path)
            wait_for(lambda version=version: served(service) == version)

        said = [line for line in service.log_lines() if line["event"] == "release_unsigned"]

    assert len(said) == 1
    assert "whoever can write to the store" in said[0]["message"]


def test_bundle_that_was_fetched_unsigned_is_not_served_once_a_signature_is_required(
    toy_bundle: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    ours, bundle = read_signing_key(keys[0]), write_toy(tmp_path / "b", seed=51).path
    with Running(toy_bundle, tmp_path / "data") as service:
        version = publish(service, bundle)
        wait_for(lambda: served(service) == version)

    with Running(toy_bundle, tmp_path / "data", trusted_keys=ours.public_text) as service:
        assert served(service) == version_of(toy_bundle)
        assert refused(service)[0]["result"] == "rejected_signature"
        publish(service, bundle, signing_key=str(keys[0]))
        wait_for(lambda: served(service) == version)
    with Running(
        toy_bundle, tmp_path / "data", trusted_keys=ours.public_text, redis_url=f"unix://{tmp_path}/nobody.sock"
    ) as service:
        assert served(service) == version
    with Running(
        toy_bundle, tmp_path / "data", redis_url=f"unix://{tmp_path}/nobody.sock",
        trusted_keys=read_signing_key(keys[1]).public_text,
    ) as service:  # fmt: skip
        assert served(service) == version_of(toy_bundle)


def test_publishing_again_without_a_key_takes_no_signature_away(keys: tuple[Path, Path], tmp_path: Path) -> None:
    ours, bundle = read_signing_key(keys[0]), write_toy(tmp_path / "bundle", seed=61).path
    with Running(bundle, tmp_path / "data", trusted_keys=ours.public_text) as service:
        version = publish(service, bundle, signing_key=str(keys[0]))
        signed = service.store().get(f"retort:release:{version}:table")

        publish(service, bundle)
        kept = service.store().get(f"retort:release:{version}:table")
        manifest = json.loads((bundle / MANIFEST).read_text()) | {"created_at": "2026-02-02T00:00:00+00:00"}
        (bundle / MANIFEST).write_text(json.dumps(manifest))
        other = run_command("publish", str(bundle), "--data-dir", str(service.data_dir))
        resigned = run_command("publish", str(bundle), "--data-dir", str(service.data_dir), signing_key=str(keys[0]))

        assert kept == signed and b"signature" in signed
        assert other.returncode == 2 and "--signing-key" in other.stderr and version in other.stderr
        assert resigned.returncode == 0, resigned.stderr
        assert json.loads(service.store().get(f"retort:release:{version}:table"))["signature"]
        assert not refused(service)
