"""Answers of the API compared with its OpenAPI description, in which a key that is not described is an error."""

import json
from collections.abc import Mapping
from typing import Any, Final

from jsonschema import Draft202012Validator

from exporter.web.api.openapi import openapi_document

PREFIX: Final = "/api/v1/"
DOCUMENT: Final = json.loads(json.dumps(openapi_document(PREFIX, "1.2.3")))


def resolved(schema: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Follow a reference; returns where it leads, and the schema."""
    if "$ref" not in schema:
        return "", schema
    place: Any = DOCUMENT
    for part in schema["$ref"].removeprefix("#/").split("/"):
        place = place[part]
    return schema["$ref"], place


def described_response(name: str, status: str, operation: str = "get") -> tuple[str, Mapping[str, Any]]:
    """Return the media type and the schema of a response."""
    responses = DOCUMENT["paths"][PREFIX + name][operation]["responses"]
    _, found = resolved(responses.get(status) or responses["default"])
    ((media_type, content),) = found["content"].items()
    return media_type, content["schema"]


def undescribed(name: str, status: str, document: Any, operation: str = "get") -> list[str]:
    """List where a response differs from its description."""
    _, schema = described_response(name, status, operation)
    errors = Draft202012Validator({**_CLOSED, **_closed(schema)}).iter_errors(document)
    return [f"{name} {status} {each.json_path}: {each.message[:200]}" for each in errors]


def _closed(schema: Any) -> Any:
    """Return a schema whose objects have no further keys."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _closed(value) for name, value in schema.items()}
    return {**found, "additionalProperties": False} if isinstance(found.get("properties"), dict) else found


_CLOSED: Final = {**DOCUMENT, "components": _closed(DOCUMENT["components"])}
