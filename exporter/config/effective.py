"""The effective configuration as YAML, with secrets masked: the output of ``--check-config``."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

import yaml
from pydantic import BaseModel, SecretStr

from exporter.config.schema import Config
from exporter.config.units import format_duration
from exporter.config.values import SECRET_MASK


def effective_yaml(config: Config) -> str:
    """Return every key with its effective value.

    The text is a valid configuration file, except that secrets are replaced by a mask, which is refused as a value. A
    value that equals its default is written as the default is, which makes the two easy to compare.
    """
    return yaml.safe_dump(_plain(config, Config()), sort_keys=False, allow_unicode=True, width=110)


def _plain(model: BaseModel, defaults: BaseModel) -> dict[str, object]:
    plain: dict[str, object] = {}
    for name, field in type(model).model_fields.items():
        value, default = getattr(model, name), getattr(defaults, name)
        if isinstance(value, BaseModel):
            plain[name] = _plain(value, default)
        elif value == default and isinstance(field.default, str | int | float):
            plain[name] = field.default
        else:
            plain[name] = _simple(value)
    return plain


def _simple(value: object) -> object:
    match value:
        case SecretStr():
            return SECRET_MASK if value.get_secret_value() else ""
        case timedelta():
            return format_duration(value)
        case Path():
            return str(value)
        case BaseModel():
            fields = type(value).model_fields
            return {fields[name].alias or name: _simple(item) for name, item in value if name in value.model_fields_set}
        case datetime():
            return value.isoformat()
        case Mapping():
            return {name: _simple(item) for name, item in value.items()}
        case tuple():
            return [_simple(item) for item in value]
        case _:
            return value
