"""``python -m tools.helm_chart``: regenerate what the Helm chart has from elsewhere.

Writes the schema of its values, from the schema of the configuration, and copies the rules and the dashboards, since
a chart can only contain files below its own directory.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from exporter.config import Config
from exporter.config.keys import VARIABLES
from tools.dashboards import FOLDER
from tools.prometheus_rule import groups, yaml_text

CHART: Final = Path(__file__).parents[1] / "configs/helm"
DATA: Final = "/var/lib/tempo-anomaly-exporter"

_SECRETS: Final = (("tempo", "auth_token"), ("tempo", "basic_auth", "password"))
_DROPPED: Final = ("title", "format", "writeOnly")
_BOUNDS: Final = {"ge": "minimum", "le": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}

Schema = dict[str, Any]


def files() -> Mapping[str, str]:
    """Return the content of every generated file by its path in the chart."""
    return {
        "values.schema.json": json.dumps(values_schema(), indent=2, ensure_ascii=False) + "\n",
        "files/rules.yaml": "# Made of configs/prometheus/rules by `make kubernetes`; change those and not this.\n"
        + yaml_text({"groups": groups()}),
        **{f"files/dashboards/{file.name}": file.read_text(encoding="utf-8") for file in sorted(FOLDER.glob("*.json"))},
    }


def config_schema() -> Schema:
    """Return the JSON schema of ``config``: that of the configuration, without secrets."""
    model = Config.model_json_schema()
    schema: Schema = _plain(model, model["$defs"])
    # The ConfigMap would show a secret to everyone who may read it.
    for path in _SECRETS:
        key = _below(schema, path)
        key |= {"maxLength": 0, "description": f"{key['description']} Not here: use secretEnv."}
    _below(schema, ("storage", "path"))["pattern"] = f"^{DATA}/[^/]+"
    _below(schema, ("web", "listen_address"))["pattern"] = ":[0-9]+$"
    return schema


def values_schema() -> Schema:
    """Return the JSON schema of the chart's values."""
    text, boolean, mapping = {"type": "string"}, {"type": "boolean"}, {"type": "object"}
    objects = {"type": "array", "items": mapping}
    texts = {"type": "object", "additionalProperties": text}
    mount = _closed({"secretName": text, "mountPath": {"type": "string", "pattern": "^/"}})
    secret_key = _closed({"name": text, "key": text})
    schema = _closed(
        {
            "config": config_schema(),
            "secretEnv": {
                "type": "object",
                "propertyNames": {"enum": sorted(VARIABLES)},
                "additionalProperties": {**secret_key, "required": ["name", "key"]},
            },
            "secretMounts": {"type": "array", "items": {**mount, "required": ["secretName", "mountPath"]}},
            "extraEnv": objects,
            "extraVolumes": objects,
            "extraVolumeMounts": objects,
            "image": _closed(
                {"repository": text, "tag": text, "pullPolicy": _one_of("Always", "IfNotPresent", "Never")}
            ),
            "imagePullSecrets": objects,
            "fullnameOverride": text,
            "persistence": _closed(
                {
                    "enabled": boolean,
                    "existingClaim": text,
                    "storageClassName": text,
                    "accessModes": {"type": "array", "items": text},
                    "size": text,
                    "annotations": texts,
                }
            ),
            "service": _closed(
                {
                    "type": _one_of("ClusterIP", "NodePort", "LoadBalancer"),
                    "port": {"type": "integer", "minimum": 1, "maximum": 65535},
                    "annotations": texts,
                }
            ),
            "serviceMonitor": _closed({"enabled": boolean, "labels": texts, "endpoint": mapping}),
            "prometheusRule": _closed({"enabled": boolean, "labels": texts}),
            "dashboards": _closed({"enabled": boolean, "namespace": text, "labels": texts, "annotations": texts}),
            "resources": mapping,
            "livenessProbe": mapping,
            "readinessProbe": mapping,
            "startupProbe": mapping,
            "podSecurityContext": mapping,
            "securityContext": mapping,
            "terminationGracePeriodSeconds": {"type": "integer", "minimum": 0},
            "serviceAccountName": text,
            "priorityClassName": text,
            "podAnnotations": texts,
            "podLabels": texts,
            "nodeSelector": texts,
            "tolerations": objects,
            "affinity": mapping,
            # Helm passes it to the chart when it is a dependency of another one.
            "global": mapping,
        }
    )
    # What every version of Helm 3 understands.
    return {"$schema": "http://json-schema.org/draft-07/schema#", **schema}


def _closed(properties: Schema) -> Schema:
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _one_of(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def _below(schema: Schema, path: tuple[str, ...]) -> Schema:
    for name in path:
        schema = schema["properties"][name]
    return schema


def _plain(node: Any, definitions: Mapping[str, Any]) -> Any:
    """Return a schema with its references resolved, and only with keywords of JSON schema that Helm checks."""
    if isinstance(node, list):
        return [_plain(each, definitions) for each in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        node = {**definitions[node["$ref"].rpartition("/")[2]], **node}
    plain: Schema = {}
    for name, value in node.items():
        if name == "properties":
            plain[name] = {key: _plain(each, definitions) for key, each in value.items()}
        elif name == "default":
            plain[name] = value
        elif name not in (*_DROPPED, "$ref", "$defs"):
            plain[_BOUNDS.get(name, name)] = _plain(value, definitions)
    return plain


def main() -> None:
    """Write the files."""
    for name, content in files().items():
        (CHART / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
