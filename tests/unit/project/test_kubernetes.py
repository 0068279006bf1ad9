"""The Kubernetes manifests match the schemas and the image, and kustomize builds them with the shipped rules."""

import json
import shutil
import subprocess
from typing import Any

import kubernetes_validate
import pytest
import yaml

from exporter.config import load_config
from tests.support.paths import REPOSITORY
from tools import prometheus_rule

MANIFESTS = REPOSITORY / "configs/kubernetes"
OLDEST, NEWEST = "1.29", "1.34"
ANNOTATION_BYTES = 256 << 10
CUSTOM = {"ServiceMonitor", "PrometheusRule"}


def load(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((MANIFESTS / name).read_text("utf-8"))
    return document


KUSTOMIZATION = load("kustomization.yaml")
RESOURCES = [name for name in KUSTOMIZATION["resources"] if name.endswith(".yaml")]


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("name", [name for name in RESOURCES if load(name)["kind"] not in CUSTOM])
def test_manifests_match_the_schema_of_kubernetes(name: str, version: str) -> None:
    kubernetes_validate.validate(load(name), version, strict=True)


def test_every_manifest_is_part_of_the_kustomization() -> None:
    others = {"kustomization.yaml", *(file for made in KUSTOMIZATION["configMapGenerator"] for file in made["files"])}
    assert {file.name for file in MANIFESTS.glob("*.yaml")} - others == set(RESOURCES)


class TestDeployment:
    pod: dict[str, Any] = load("deployment.yaml")["spec"]["template"]["spec"]
    container: dict[str, Any] = pod["containers"][0]

    def test_two_pods_never_share_a_database(self) -> None:
        spec = load("deployment.yaml")["spec"]
        assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})

    def test_has_minimal_privileges(self) -> None:
        assert self.container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert self.pod["securityContext"]["runAsNonRoot"] is True
        assert self.pod["automountServiceAccountToken"] is False

    def test_probes_use_addresses_without_password(self) -> None:
        probes = {name: self.container[f"{name}Probe"]["httpGet"]["path"] for name in ("liveness", "readiness")}
        assert probes == {"liveness": "/-/healthy", "readiness": "/-/ready"}

    def test_user_and_paths_match_the_image(self) -> None:
        dockerfile = (REPOSITORY / "Dockerfile").read_text("utf-8")
        user = self.pod["securityContext"]
        assert f"USER {user['runAsUser']}:{user['runAsGroup']}" in dockerfile
        mounts = {mount["name"]: mount["mountPath"] for mount in self.container["volumeMounts"]}
        assert f'VOLUME ["{mounts["data"]}"]' in dockerfile
        assert f"{mounts['config']}/exporter.yaml" in self.container["args"]

    def test_mounts_match_volumes_claims_and_config_maps(self) -> None:
        assert {mount["name"] for mount in self.container["volumeMounts"]} == {v["name"] for v in self.pod["volumes"]}
        claims = [v["persistentVolumeClaim"]["claimName"] for v in self.pod["volumes"] if "persistentVolumeClaim" in v]
        assert claims == [load("pvc.yaml")["metadata"]["name"]]
        maps = [v["configMap"]["name"] for v in self.pod["volumes"] if "configMap" in v]
        assert maps == [KUSTOMIZATION["configMapGenerator"][0]["name"]]

    def test_service_and_monitor_select_it(self) -> None:
        service, monitor = load("service.yaml"), load("servicemonitor.yaml")
        template = load("deployment.yaml")["spec"]["template"]
        assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
        assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
        # The Prometheus Operator uses the name of the Service as job, which rules and dashboards select.
        assert service["metadata"]["name"] == "tempo-anomaly-exporter"


def test_its_configuration_is_valid() -> None:
    config = load_config(MANIFESTS / "exporter.yaml", {})
    mounts = TestDeployment.container["volumeMounts"]
    assert str(config.storage.path.parent) in {mount["mountPath"] for mount in mounts}


def test_rules_are_generated_from_the_shipped_ones() -> None:
    assert prometheus_rule.groups()
    assert prometheus_rule.TARGET.read_text("utf-8") == prometheus_rule.rendered(), "run: make kubernetes"


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_builds_all_of_it() -> None:
    built = subprocess.run(["kubectl", "kustomize", MANIFESTS], capture_output=True, text=True, timeout=60)
    assert built.returncode == 0, built.stderr
    documents = list(yaml.safe_load_all(built.stdout))
    assert {document["kind"] for document in documents} == {
        "ConfigMap",
        "Deployment",
        "PersistentVolumeClaim",
        "PrometheusRule",
        "Service",
        "ServiceMonitor",
    }
    for document in documents:
        if document["kind"] not in CUSTOM:
            kubernetes_validate.validate(document, NEWEST, strict=True)
    dashboards = [d for d in documents if d["metadata"].get("labels", {}).get("grafana_dashboard") == "1"]
    assert sorted(name for each in dashboards for name in each["data"]) == sorted(
        file.name for file in (REPOSITORY / "grafana/dashboards").glob("*.json")
    )
    # `kubectl apply` copies each object into an annotation.
    assert all(len(json.dumps(each).encode()) < ANNOTATION_BYTES for each in dashboards)
