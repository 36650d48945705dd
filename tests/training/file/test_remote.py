"""Files at addresses: over https from a real TLS server, and from a server that speaks the S3 protocol."""

import http.server
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from training.errors import InputError
from training.file.source import find_source

ROWS = "user_id,item_id,timestamp\n" + "".join(
    f"u{user},i{(user + event) % 7},{1_600_000_000 + 1000 * event + user}\n" for user in range(30) for event in range(6)
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate of 127.0.0.1 and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture(scope="module")
def served(certificate: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a TLS server with a file of rows and an empty one."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "events.csv").write_text(ROWS)
    (folder / "empty.csv").write_text("")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def prepare(address: str, out: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run the prepare stage on an address, in a process of its own."""
    command = [sys.executable, "-P", "-m", "training", "prepare", "--interactions", address, "--out", str(out)]
    return subprocess.run(command, env=os.environ | env, capture_output=True, text=True, timeout=120, check=False)


def test_a_file_is_read_over_https(served: str, certificate: Path, tmp_path: Path) -> None:
    done = prepare(f"{served}/events.csv?version=1", tmp_path / "run", SSL_CERT_FILE=str(certificate))

    assert "180 rows read" in done.stderr + done.stdout, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("path", "trusts", "says"),
    [
        ("events.csv", False, "certificate"),
        ("none.csv", True, "cannot be fetched"),
        ("empty.csv", True, "no file with rows in it"),
    ],
)
def test_what_cannot_be_fetched_is_refused(
    served: str, certificate: Path, tmp_path: Path, path: str, trusts: bool, says: str
) -> None:
    env = {"SSL_CERT_FILE": str(certificate)} if trusts else {}

    done = prepare(f"{served}/{path}", tmp_path / "run", **env)

    assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_bucket_is_read_by_address_and_by_glob(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs", reason="s3fs needs an older dateutil than our other tests: run it in a venv of its own")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    secrets = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in (secrets | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}).items():
        monkeypatch.setenv(name, value)
    try:
        import s3fs

        system = s3fs.S3FileSystem()
        system.mkdir("shop")
        for number in range(3):
            system.pipe(f"shop/events/part-{number}.csv", ROWS.encode())
        system.pipe("shop/events/_SUCCESS", b"")

        one = find_source("s3://shop/events/part-1.csv")
        assert one.parts[0].path.read_text() == ROWS
        assert len(find_source("s3://shop/events/part-*.csv").parts) == 3
        assert len(find_source("s3://shop/events").parts) == 3, "a directory of parts, without what lies beside"
        with pytest.raises(InputError, match=r"s3://shop/none\.csv"):
            find_source("s3://shop/none.csv")
    finally:
        server.stop()


def test_without_its_extra_an_address_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)

    with pytest.raises(InputError, match=r"pip install 'retort\[remote\]'"):
        find_source("https://127.0.0.1/events.csv")
