"""The Helm chart: what Helm renders equals the Kubernetes manifests, and its copies equal their sources."""

import importlib.util
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from exporter import __version__
from exporter.config import Config, load_config
from exporter.config.keys import KEYS
from tests.support.helm import CHART, Helm, HelmError
from tests.support.paths import REPOSITORY
from tests.unit.project.test_kubernetes import ANNOTATION_BYTES, CUSTOM, NEWEST, OLDEST
from tests.unit.project.test_kubernetes import load as load_manifest
from tools import helm_chart

NAME = "tempo-anomaly-exporter"
OPERATOR = {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}}
DASHBOARDS: dict[str, Any] = {"dashboards": {}}
EVERYTHING = {
    **OPERATOR,
    "secretEnv": {"TEMPO_AUTH_TOKEN": {"name": "tempo", "key": "token"}},
    "secretMounts": [{"secretName": "web", "mountPath": "/etc/web"}, {"secretName": "ca", "mountPath": "/etc/ca"}],
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
    "extraVolumes": [{"name": "scratch", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
    "image": {"repository": "registry.example/exporter", "tag": "1.2.3", "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "registry"}],
    "fullnameOverride": "anomalies",
    "persistence": {"storageClassName": "fast", "size": "10Gi", "annotations": {"example.com/a": "b"}},
    "service": {"type": "NodePort", "port": 80, "annotations": {"example.com/a": "b"}},
    "dashboards": {"namespace": "grafana", "annotations": {"grafana_folder": "Tempo anomalies"}},
    "serviceAccountName": "exporter",
    "priorityClassName": "high",
    "podAnnotations": {"example.com/a": "b"},
    "podLabels": {"team": "observability"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
}

needs_helm = pytest.mark.skipif(
    importlib.util.find_spec("helm_python") is None and os.environ.get("CI") != "true",
    reason="helm-python-sdk is not installed; there is no package for this platform",
)


@pytest.fixture(scope="module")
def helm() -> Iterator[Helm]:
    with Helm() as process:
        yield process


def documents(helm: Helm, values: dict[str, Any], *, release: str = NAME) -> list[dict[str, Any]]:
    """Return the objects that Helm renders, without dashboards unless the values mention them."""
    rendered = helm.render({"dashboards": {"enabled": False}, **values}, release=release)
    del rendered["NOTES.txt"]
    # In C, since the objects are large.
    return [each for text in rendered.values() for each in yaml.load_all(text, yaml.CSafeLoader) if each is not None]


def only(rendered: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = (each for each in rendered if each["kind"] == kind)
    return found


def config_map(rendered: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = (each for each in rendered if each["kind"] == "ConfigMap" and "exporter.yaml" in each["data"])
    return found


def configuration(rendered: list[dict[str, Any]], directory: Path) -> Config:
    """Return the configuration that the pod would load."""
    file = directory / "exporter.yaml"
    file.write_text(config_map(rendered)["data"]["exporter.yaml"], "utf-8")
    return load_config(file, {})


class TestGenerated:
    def test_files_equal_their_sources(self) -> None:
        for name, content in helm_chart.files().items():
            assert (CHART / name).read_text("utf-8") == content, f"{name}: run: make kubernetes"

    def test_there_are_no_other_files(self) -> None:
        found = {str(file.relative_to(CHART)) for file in (CHART / "files").rglob("*") if file.is_file()}
        assert found == helm_chart.files().keys() - {"values.schema.json"}

    def test_rules_equal_those_of_the_manifests(self) -> None:
        rules = yaml.safe_load(helm_chart.files()["files/rules.yaml"])
        assert rules == load_manifest("prometheusrule.yaml")["spec"]

    def test_the_schema_has_every_key_of_the_configuration(self) -> None:
        schema = helm_chart.config_schema()
        for path in KEYS:
            node = schema
            for name in path:
                assert node["additionalProperties"] is False
                node = node["properties"][name]
            assert node["description"]
        assert '"$ref"' not in json.dumps(schema)

    def test_the_version_is_that_of_the_exporter(self) -> None:
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
        assert chart["version"] == chart["appVersion"] == __version__


@needs_helm
class TestRendered:
    def test_lint_finds_nothing(self, helm: Helm) -> None:
        assert helm.lint() == []

    def test_the_pod_is_that_of_the_manifests(self, helm: Helm) -> None:
        rendered, manifest = only(documents(helm, {}), "Deployment"), load_manifest("deployment.yaml")
        pod = rendered["spec"]["template"]["spec"]
        assert pod["containers"][0].pop("imagePullPolicy") == "IfNotPresent"
        assert pod == manifest["spec"]["template"]["spec"]
        assert {name: rendered["spec"][name] for name in ("replicas", "strategy")} == {
            name: manifest["spec"][name] for name in ("replicas", "strategy")
        }

    def test_service_claim_and_configuration_are_those_of_the_manifests(self, helm: Helm, tmp_path: Path) -> None:
        rendered = documents(helm, {})
        assert only(rendered, "PersistentVolumeClaim")["spec"] == load_manifest("pvc.yaml")["spec"]
        assert only(rendered, "Service")["spec"]["ports"] == load_manifest("service.yaml")["spec"]["ports"]
        manifest = load_config(REPOSITORY / "configs/kubernetes/exporter.yaml", {})
        assert configuration(rendered, tmp_path) == manifest

    def test_rules_and_monitor_are_those_of_the_manifests(self, helm: Helm) -> None:
        assert {each["kind"] for each in documents(helm, {})}.isdisjoint(CUSTOM)
        rendered = documents(helm, OPERATOR, release="other")
        assert only(rendered, "PrometheusRule")["spec"] == load_manifest("prometheusrule.yaml")["spec"]
        monitor, service = only(rendered, "ServiceMonitor")["spec"], only(rendered, "Service")
        assert monitor["endpoints"] == load_manifest("servicemonitor.yaml")["spec"]["endpoints"]
        assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        # Rules and dashboards select this job, with any name of the release.
        assert service["metadata"]["name"] == f"other-{NAME}"
        assert service["metadata"]["labels"][monitor["jobLabel"]] == NAME

    def test_dashboards_are_labelled_for_the_sidecar(self, helm: Helm) -> None:
        rendered = [
            each for each in documents(helm, DASHBOARDS) if each["metadata"]["labels"].get("grafana_dashboard") == "1"
        ]
        files = {name: text for each in rendered for name, text in each["data"].items()}
        folder = REPOSITORY / "grafana/dashboards"
        assert {name: json.loads(text) for name, text in files.items()} == {
            file.name: json.loads(file.read_text("utf-8")) for file in folder.glob("*.json")
        }
        assert all(len(json.dumps(each).encode()) < ANNOTATION_BYTES for each in rendered)
        assert len({each["metadata"]["name"] for each in rendered}) == len(rendered)

    @pytest.mark.parametrize("values", [DASHBOARDS, EVERYTHING], ids=["defaults", "everything"])
    def test_objects_match_the_schema_of_kubernetes(self, helm: Helm, values: dict[str, Any]) -> None:
        for document in documents(helm, values, release="x" * 53):
            assert len(document["metadata"]["name"]) <= 63
            if document["kind"] not in CUSTOM:
                for version in (OLDEST, NEWEST):
                    kubernetes_validate.validate(document, version, strict=True)

    def test_every_value_has_an_effect(self, helm: Helm) -> None:
        rendered = documents(helm, EVERYTHING)
        deployment, service = only(rendered, "Deployment"), only(rendered, "Service")
        pod = deployment["spec"]["template"]
        container = pod["spec"]["containers"][0]
        assert container["env"] == [
            {"name": "TEMPO_AUTH_TOKEN", "valueFrom": {"secretKeyRef": {"name": "tempo", "key": "token"}}},
            {"name": "HTTPS_PROXY", "value": "http://proxy:3128"},
        ]
        mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
        volumes = {each["name"]: each for each in pod["spec"]["volumes"]}
        assert mounts.keys() == volumes.keys()
        assert (mounts["secret-0"], volumes["secret-1"]["secret"]) == ("/etc/web", {"secretName": "ca"})
        assert container["image"] == "registry.example/exporter:1.2.3"
        assert pod["metadata"]["labels"]["team"] == "observability"
        assert pod["metadata"]["annotations"]["example.com/a"] == "b"
        assert pod["spec"] | {
            "imagePullSecrets": [{"name": "registry"}], "serviceAccountName": "exporter", "priorityClassName": "high",
            "nodeSelector": {"disk": "ssd"}, "tolerations": EVERYTHING["tolerations"],
            "affinity": EVERYTHING["affinity"],
        } == pod["spec"]  # fmt: skip
        claim = only(rendered, "PersistentVolumeClaim")
        assert claim["spec"]["storageClassName"] == "fast"
        assert claim["spec"]["resources"] == {"requests": {"storage": "10Gi"}}
        assert (service["metadata"]["name"], service["spec"]["type"]) == ("anomalies", "NodePort")
        assert service["spec"]["ports"][0]["port"] == 80
        boards = [each for each in rendered if each["metadata"]["namespace"] == "grafana"]
        assert [each["metadata"]["annotations"] for each in boards] == [{"grafana_folder": "Tempo anomalies"}] * 3

    def test_the_volume_can_be_an_existing_claim_or_none(self, helm: Helm) -> None:
        for persistence, volume in (
            ({"existingClaim": "mine"}, {"persistentVolumeClaim": {"claimName": "mine"}}),
            ({"enabled": False}, {"emptyDir": {}}),
        ):
            rendered = documents(helm, {"persistence": persistence})
            assert "PersistentVolumeClaim" not in {each["kind"] for each in rendered}
            volumes = only(rendered, "Deployment")["spec"]["template"]["spec"]["volumes"]
            assert {"name": "data", **volume} in volumes

    def test_the_whole_configuration_is_a_value(self, helm: Helm, tmp_path: Path) -> None:
        example = yaml.safe_load((REPOSITORY / "configs/exporter.yaml").read_text("utf-8"))
        example["storage"]["path"] = "/var/lib/tempo-anomaly-exporter/other.db"
        # A number that Go would write as 1e+06.
        example["tempo"]["limit"] = 1_000_000
        example["overrides"] = [{"match": "a/.*", "severity": "info", "detection": {"ratio": 3}}]
        example["web"]["listen_address"] = "[::]:9900"
        rendered = documents(helm, {"config": example})
        assert configuration(rendered, tmp_path) == Config.model_validate(example)
        container = only(rendered, "Deployment")["spec"]["template"]["spec"]["containers"][0]
        assert container["ports"] == [{"name": "http", "containerPort": 9900}]

    def test_the_documented_values_are_valid(self, helm: Helm, tmp_path: Path) -> None:
        document = (REPOSITORY / "docs/install.md").read_text("utf-8")
        found = re.search(r"<!-- begin: values of the Helm chart -->\n```yaml\n(.*?)```", document, re.DOTALL)
        assert found
        rendered = documents(helm, yaml.safe_load(found[1]))
        assert configuration(rendered, tmp_path).tempo.tenant == "shop"
        assert {each["kind"] for each in rendered} > CUSTOM

    def test_a_change_of_the_configuration_restarts_the_pod(self, helm: Helm) -> None:
        checksums = {
            only(documents(helm, values), "Deployment")["spec"]["template"]["metadata"]["annotations"][
                "checksum/config"
            ]
            for values in ({}, {"config": {"tempo": {"limit": 10}}}, {"podLabels": {"a": "b"}})
        }
        assert len(checksums) == 2

    @pytest.mark.parametrize(
        ("values", "place"),
        [
            ({"confg": {}}, "additional properties 'confg' not allowed"),
            ({"config": {"tempo": {"urll": "http://tempo"}}}, "'/config/tempo': additional properties 'urll'"),
            ({"config": {"tempo": {"limit": 0}}}, "/config/tempo/limit"),
            ({"config": {"tempo": {"auth_token": "secret"}}}, "/config/tempo/auth_token"),
            ({"config": {"storage": {"path": "/data/tempo.db"}}}, "/config/storage/path"),
            ({"config": {"overrides": [{"detection": {"ratio": 2}}]}}, "/config/overrides/0"),
            ({"secretEnv": {"TEMPO_TOKEN": {"name": "a", "key": "b"}}}, "TEMPO_TOKEN"),
            ({"persistence": {"existingclaim": "mine"}}, "existingclaim"),
        ],
    )
    def test_a_wrong_key_or_value_is_rejected(self, helm: Helm, values: dict[str, Any], place: str) -> None:
        with pytest.raises(HelmError) as rejected:
            helm.render(values, release=NAME)
        assert place in str(rejected.value)
        assert "secret" not in str(rejected.value).replace("secretEnv", "")
