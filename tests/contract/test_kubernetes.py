"""The files for Kubernetes: rendered, held to the schemas of their kinds, to each other and to the service."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml

from service.settings import Settings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docker" / "kubernetes"
VERSION = "1.37"
OF_THE_OPERATOR = {"ServiceMonitor", "PrometheusRule"}
NAME = "app.kubernetes.io/name"
Object = dict[str, Any]


@pytest.fixture(scope="module", params=["example", "production", "traced"])
def objects(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    """The objects of an overlay; traced: that of production with the component of tracing."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not here")
    folder = FOLDER / request.param
    if request.param == "traced":
        folder = tmp_path_factory.mktemp("traced")
        own = {"resources": [FOLDER / "production"], "components": [FOLDER / "tracing"]}
        relative = {name: [os.path.relpath(path, folder.resolve()) for path in paths] for name, paths in own.items()}
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(relative))
    command = ["kubectl", "kustomize", str(folder)]
    rendered = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return list(yaml.safe_load_all(rendered))


def pods(objects: list[Object]) -> Iterator[Object]:
    """Yield the pod template of everything that makes pods."""
    for each in objects:
        spec = each.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            yield spec["template"]


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [each for each in objects if each["kind"] == kind]


def test_every_object_fits_the_schema_of_its_kind(objects: list[Object]) -> None:
    known = [each for each in objects if each["kind"] not in OF_THE_OPERATOR]
    assert {"Deployment", "Service", "NetworkPolicy"} <= {each["kind"] for each in known}
    for each in known:
        kubernetes_validate.validate(each, VERSION, strict=True)  # raises where it does not fit


def test_every_object_is_in_one_namespace_that_is_restricted(objects: list[Object]) -> None:
    (namespace,) = of_kind(objects, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    others = [each for each in objects if each["kind"] != "Namespace"]
    assert {each["metadata"].get("namespace") for each in others} == {namespace["metadata"]["name"]}


def test_every_pod_fits_the_restricted_standard_and_asks_for_what_it_needs(objects: list[Object]) -> None:
    found = list(pods(objects))
    assert found
    for pod in found:
        context = pod["spec"]["securityContext"]
        assert context["runAsNonRoot"] is True and context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod["spec"].keys()
        for container in pod["spec"]["containers"]:
            own = container["securityContext"]
            assert own["capabilities"] == {"drop": ["ALL"]} and own["allowPrivilegeEscalation"] is False
            assert own["readOnlyRootFilesystem"] is True
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


def test_every_setting_is_one_of_the_service(objects: list[Object]) -> None:
    known = {f"RETORT_{name.upper()}" for name in Settings.model_fields}
    for pod in pods(objects):
        for container in pod["spec"]["containers"]:
            assert {each["name"] for each in container.get("env", [])} <= known


def test_the_component_of_tracing_names_a_collector_and_opens_its_port(objects: list[Object]) -> None:
    (pod,) = [each for each in pods(objects) if each["metadata"]["labels"][NAME] == "retort"]
    settings = {each["name"]: each.get("value") for each in pod["spec"]["containers"][0]["env"]}
    (policy,) = [each for each in of_kind(objects, "NetworkPolicy") if each["metadata"]["name"] == "retort"]
    ports = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}

    endpoint = settings.get("RETORT_OTLP_ENDPOINT")
    assert (urlsplit(endpoint).port if endpoint else None) in {None, *ports}
    assert bool(endpoint) == (4318 in ports)


def test_every_key_of_the_secret_is_there_or_in_the_readme(objects: list[Object]) -> None:
    asked = {
        each["valueFrom"]["secretKeyRef"]["key"]: each["valueFrom"]["secretKeyRef"].get("optional", False)
        for pod in pods(objects)
        for container in pod["spec"]["containers"]
        for each in container.get("env", [])
        if "valueFrom" in each
    }
    readme = (FOLDER / "README.md").read_text()
    assert all(f"| `{key}` |" in readme and f"--from-literal={key}=" in readme for key in asked)
    for secret in of_kind(objects, "Secret"):
        assert {key for key, is_optional in asked.items() if not is_optional} <= secret["data"].keys()


def test_selectors_targets_and_claims_meet_something(objects: list[Object]) -> None:
    labels = [pod["metadata"]["labels"] for pod in pods(objects)]
    for each in of_kind(objects, "Service"):
        assert any(each["spec"]["selector"].items() <= own.items() for own in labels)
    for each in of_kind(objects, "PodDisruptionBudget") + of_kind(objects, "Deployment"):
        assert any(each["spec"]["selector"]["matchLabels"].items() <= own.items() for own in labels)
    names = {(each["kind"], each["metadata"]["name"]) for each in objects}
    for each in of_kind(objects, "HorizontalPodAutoscaler"):
        target = each["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) in names
    for pod in pods(objects):
        for volume in pod["spec"].get("volumes", []):
            claim = volume.get("persistentVolumeClaim")
            assert claim is None or ("PersistentVolumeClaim", claim["claimName"]) in names
        account = pod["spec"].get("serviceAccountName")
        assert account is None or ("ServiceAccount", account) in names
        assert [*of_kind(objects, "NetworkPolicy")] and NAME in pod["metadata"]["labels"]


def test_whatever_publishes_knows_whether_a_signature_is_required(objects: list[Object]) -> None:
    serving = [pod for pod in pods(objects) if "retort" in pod["metadata"]["labels"].values()]
    refreshing = [pod for pod in pods(objects) if "retort-refresh" in pod["metadata"]["labels"].values()]

    keys = [
        next(one for one in pod["spec"]["containers"][0]["env"] if one["name"] == "RETORT_TRUSTED_KEYS")
        for pod in (*serving, *refreshing)
    ]

    assert serving and all(key == keys[0] for key in keys)


def test_a_pod_has_time_to_drain(objects: list[Object]) -> None:
    (pod,) = [each for each in pods(objects) if each["metadata"]["labels"][NAME] == "retort"]
    (container,) = pod["spec"]["containers"]
    seconds = {each["name"]: float(each["value"]) for each in container["env"] if each["name"].endswith("_S")}
    assert sum(seconds.values()) < pod["spec"]["terminationGracePeriodSeconds"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"


def test_the_rules_of_the_operator_are_those_that_are_tested() -> None:
    rules = yaml.safe_load((FOLDER / "monitoring" / "rules.yaml").read_text())
    assert rules["spec"] == yaml.safe_load((ROOT / "docker" / "prometheus" / "rules.yml").read_text())


def test_images_are_of_this_version_and_of_the_compose_file() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    text = "\n".join(path.read_text() for path in FOLDER.rglob("*.yaml"))
    used = {line.split("image:")[1].strip() for line in text.splitlines() if "image: " in line and "valkey" in line}
    assert used == {compose["redis"]["image"]}
    assert f"image: {compose['service']['image']}\n" in text
