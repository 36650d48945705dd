"""Signatures of published bundles, Ed25519: who may decide what is served, beside whoever can write to the store.

What is signed is the namespace and the whole text of the manifest. That names the version, every field, and the sum and
size of every file, so none of them can be exchanged, and nothing signed for one namespace is good in another. Which of
the signed versions is live, and in which order, is not signed: the service itself makes versions live, and has no
private key. So whoever can write to the store can bring back an older version that was once signed. A new key ends
that: what the old one has signed is then refused.
"""

import base64
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from service.errors import RefusedError, StartError

_KEY_BYTES, _SIGNATURE_BYTES = 32, 64
_OTHERS = 0o077
_MAX_FILE_BYTES = 1 << 16


def parse_public_keys(text: str) -> tuple[bytes, ...]:
    """Read public keys, in base64 and joined by commas. Raises ValueError."""
    keys = []
    for part in filter(None, (each.strip() for each in text.split(","))):
        try:
            key = base64.b64decode(part, validate=True)
        except ValueError:
            key = b""
        if len(key) != _KEY_BYTES:
            raise ValueError("not a public key as keygen prints it: 44 characters of base64, joined by commas")
        keys.append(key)
    return tuple(keys)


class SigningKey:
    """A private key, with which a bundle is signed when it is published. public: its public key, 32 bytes."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes_raw()

    @property
    def public_text(self) -> str:
        """The public key as RETORT_TRUSTED_KEYS takes it."""
        return base64.b64encode(self.public).decode()

    def sign(self, namespace: str, manifest: bytes) -> str:
        """Return the signature of a manifest as text."""
        return base64.b64encode(self._key.sign(_message(namespace, manifest))).decode()


def make_signing_key(path: Path) -> SigningKey:
    """Make a key pair; write the private key to a new file that only its owner can read. Raises StartError."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(file, "wb") as opened:
            opened.write(pem)
    except FileExistsError:
        raise StartError(f"{path}: is there already, and a key is never overwritten; choose another name") from None
    except OSError as exc:
        raise StartError(f"{path}: {exc.strerror}") from exc
    return SigningKey(key)


def read_signing_key(path: Path) -> SigningKey:
    """Read a private key. Raises StartError, also where everybody may read or replace it."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & _OTHERS:
                raise StartError(f"{path}: everybody can read or change this private key; chmod 600 it")
            text = file.read(_MAX_FILE_BYTES)
    except OSError as exc:
        raise StartError(f"{path}: {exc.strerror}; give the file that 'keygen' wrote") from exc
    try:
        key = load_pem_private_key(text, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise StartError(f"{path}: not an Ed25519 private key as 'keygen' writes it, without a password")
    return SigningKey(key)


class Trust:
    """Whose signatures count in one namespace, and whether a version needs one."""

    def __init__(
        self, namespace: str, public_keys: Sequence[bytes], *, is_required: bool, on_unsigned: Callable[[], None]
    ) -> None:
        """on_unsigned: is told once, when a version that nobody trusted has signed is accepted."""
        self._namespace, self._is_required, self._on_unsigned = namespace, is_required, on_unsigned
        self._keys = [Ed25519PublicKey.from_public_bytes(key) for key in public_keys]
        self._has_said = False

    def check(self, version: str, manifest: bytes, signature: str | None) -> None:
        """Raise RefusedError unless a version may be served. manifest: the text of its manifest.json."""
        if signature is not None and self._is_by_one_of_us(manifest, signature):
            return
        if signature is not None and self._keys:
            raise RefusedError("rejected_signature", f"version {version}: its signature is by none of the trusted keys")
        if self._is_required:
            raise RefusedError("rejected_signature", f"version {version}: nobody has signed it, and somebody must")
        if not self._has_said:
            self._has_said = True
            self._on_unsigned()

    def _is_by_one_of_us(self, manifest: bytes, signature: str) -> bool:
        try:
            raw = base64.b64decode(signature, validate=True)
        except ValueError:
            return False
        message = _message(self._namespace, manifest)
        return len(raw) == _SIGNATURE_BYTES and any(_verifies(key, raw, message) for key in self._keys)


def _verifies(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _message(namespace: str, manifest: bytes) -> bytes:
    return b"retort release 1\n" + namespace.encode() + b"\n" + manifest
