"""Renew what the images are held to: python docker/renew.py [locks] [images], or make renew.

locks: the hashes of every wheel, in docker/*.lock, from pyproject.toml and constraints.txt by `uv pip compile`. torch
is left out, because its builds (CPU, CUDA) come from different indexes; what it needs of others is in.
images: the newest patch release of each tag, and its digest, in docker-compose.yml and the Dockerfiles, from the
registry. A tag may be moved by whoever owns it; a digest is the sum of what it names, so that nothing else is ever run.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from importlib.metadata import requires
from pathlib import Path
from urllib.parse import urlencode, urljoin

ROOT = Path(__file__).parents[1]
FILES = ("docker-compose.yml", "docker/service.Dockerfile", "docker/training.Dockerfile")
OWN_IMAGE = "retort"
PYTHON = "3.11.3"
"""The oldest Python that the locks are for: uv keeps what each later one needs, with its condition."""
_REFERENCE = re.compile(
    r"^(?P<before>\s*image:\s+|FROM\s+)(?P<name>[\w./-]+):(?P<tag>[\w.-]+)(?:@sha256:[0-9a-f]{64})?", re.MULTILINE
)
_RELEASE = re.compile(r"(v?\d+\.\d+\.)(\d+)")
_MANIFESTS = ", ".join((
    "application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json",
))  # fmt: skip
_TIMEOUT_S = 30.0
_MAX_BYTES = 8 << 20
_MAX_PAGES = 200


class RenewError(Exception):
    """Something was not renewed; nothing of its kind was written."""


class Registry:
    """A registry's API, as far as tags and digests need it. base: its address; every image is asked for there."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._tokens: dict[str, str] = {}

    def digest(self, repository: str, tag: str) -> str:
        """Return the digest of a tag, the sum of the manifest that the registry gives. Raises RenewError."""
        body, headers = self._get(repository, f"/v2/{repository}/manifests/{tag}", accept=_MANIFESTS)
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        if headers.get("Docker-Content-Digest", digest) != digest:
            raise RenewError(f"{repository}:{tag}: the registry's digest is not that of what it sent")
        return digest

    def tags(self, repository: str) -> Iterator[str]:
        """Yield every tag of a repository. Raises RenewError."""
        path: str | None = f"/v2/{repository}/tags/list?n=1000"
        for _ in range(_MAX_PAGES):
            if path is None:
                return
            body, headers = self._get(repository, path, accept="application/json")
            yield from json.loads(body)["tags"] or []
            following = re.match(r'<([^>]+)>;\s*rel="?next"?', headers.get("Link", ""))
            path = urljoin(path, following[1]) if following else None
        raise RenewError(f"{repository}: more than {_MAX_PAGES} pages of tags")

    def _get(self, repository: str, path: str, *, accept: str) -> tuple[bytes, dict[str, str]]:
        url = urljoin(self._base, path)
        if not url.startswith(f"{self._base}/"):
            raise RenewError(f"{repository}: the registry sends us elsewhere, to {url}")
        try:
            return self._fetch(url, accept, self._tokens.get(repository))
        except urllib.error.HTTPError as exc:
            if exc.code != 401 or repository in self._tokens:
                raise RenewError(f"{url}: {exc.code} {exc.reason}") from exc
            self._tokens[repository] = self._ask_for_token(exc.headers.get("WWW-Authenticate", ""), repository)
        return self._get(repository, path, accept=accept)

    def _ask_for_token(self, challenge: str, repository: str) -> str:
        """Return what an anonymous caller is given to read a repository."""
        said = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        if not challenge.startswith("Bearer ") or not said.get("realm", "").startswith(("https://", self._base)):
            raise RenewError(f"{repository}: the registry asks for a login that is not known here: {challenge}")
        query = {"service": said.get("service", ""), "scope": f"repository:{repository}:pull"}
        try:
            body, _ = self._fetch(f"{said['realm']}?{urlencode(query)}", "application/json", None)
        except urllib.error.HTTPError as exc:
            raise RenewError(f"{said['realm']}: {exc.code} {exc.reason}") from exc
        found = json.loads(body)
        return str(found.get("token") or found.get("access_token"))

    def _fetch(self, url: str, accept: str, token: str | None) -> tuple[bytes, dict[str, str]]:
        headers = {"Accept": accept} | ({"Authorization": f"Bearer {token}"} if token else {})
        request = urllib.request.Request(url, headers=headers)  # noqa: S310  # https, or what --registry says
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as reply:  # noqa: S310
                body = reply.read(_MAX_BYTES + 1)
                given = dict(reply.headers.items())
        except urllib.error.HTTPError:
            raise
        except OSError as exc:
            raise RenewError(f"{url}: {getattr(exc, 'reason', exc)}") from exc
        if len(body) > _MAX_BYTES:
            raise RenewError(f"{url}: the answer is larger than {_MAX_BYTES} bytes")
        return body, given


def renew_images(registry: Registry, root: Path, say: Callable[[str], object] = print) -> None:
    """Write the newest patch release and its digest into every file that names an image. Raises RenewError."""
    texts = {name: (root / name).read_text() for name in FILES}
    found: dict[tuple[str, str], str] = {}
    for text in texts.values():
        for match in _REFERENCE.finditer(text):
            name, tag = match["name"], match["tag"]
            if name != OWN_IMAGE and (name, tag) not in found:
                repository = name if "/" in name else f"library/{name}"
                newest = newest_release(tag, registry.tags(repository))
                found[name, tag] = f"{name}:{newest}@{registry.digest(repository, newest)}"
                say(f"{name}:{tag} -> {found[name, tag]}")

    def renewed(match: re.Match[str]) -> str:
        return match["before"] + found.get((match["name"], match["tag"]), match[0].removeprefix(match["before"]))

    for name, text in texts.items():
        (root / name).write_text(_REFERENCE.sub(renewed, text))


def newest_release(tag: str, tags: Iterator[str]) -> str:
    """Return the newest patch release of the same minor version; a tag of another form (3.11-slim) stays."""
    own = _RELEASE.fullmatch(tag)
    if own is None:
        return tag
    others = [match for other in tags if (match := _RELEASE.fullmatch(other)) and match[1] == own[1]]
    return max([own, *others], key=lambda match: int(match[2]))[0]


def renew_locks(root: Path, say: Callable[[str], object] = print) -> None:
    """Write docker/*.lock. Raises RenewError."""
    project = tomllib.loads((root / "pyproject.toml").read_text())
    core, extras = project["project"]["dependencies"], project["project"]["optional-dependencies"]
    trained = [*extras["train"], *needed_by_torch()]
    for name, requirements in (
        ("build", project["build-system"]["requires"]),
        ("service", [*core, *extras["embedded"], *extras["tracing"]]),
        ("training", [*core, *(each for each in trained if _name_of(each) != "torch")]),
    ):
        lock = root / "docker" / f"{name}.lock"
        lock.write_text(
            f"# The wheels of the image, by their sums. Written by: make renew\n{_compile(root, requirements)}"
        )
        say(f"{lock.relative_to(root)}: {lock.read_text().count('==')} packages")


def needed_by_torch() -> list[str]:
    """Return what torch needs of others, as it is installed here, without the libraries of one maker's GPUs."""
    found = [each for each in requires("torch") or [] if "extra ==" not in each]
    return [each for each in found if not re.match(r"nvidia|cuda|triton", each)]


def _compile(root: Path, requirements: list[str]) -> str:
    command = [
        sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-config", "--no-header", "--no-annotate",
        "--universal", "--python-version", PYTHON, "--generate-hashes", "--constraint", "constraints.txt", "-",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=root, input="\n".join(requirements), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RenewError(done.stderr.strip())
    return done.stdout


def _name_of(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower()


def main() -> int:
    """Renew what is asked for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", metavar="locks|images", help="default: both")
    parser.add_argument("--registry", metavar="URL", help="the registry of the images, or a mirror of it")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    given = parser.parse_args()
    what = given.what or ["locks", "images"]
    if not set(what) <= {"locks", "images"}:
        parser.error(f"locks or images, not {' '.join(what)}")
    try:
        if "locks" in what:
            renew_locks(given.root)
        if "images" in what:
            if given.registry is None:
                raise RenewError("--registry: name the registry that the images come from")
            renew_images(Registry(given.registry.rstrip("/")), given.root)
    except RenewError as exc:
        print(f"not renewed: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
