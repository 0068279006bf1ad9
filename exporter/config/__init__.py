"""Configuration: read from a YAML file and the environment, validated as a whole, immutable."""

from exporter.config.calendar import build_calendar
from exporter.config.effective import effective_yaml
from exporter.config.environment import ignored_variables
from exporter.config.load import ConfigError, load_config
from exporter.config.schema import Config

__all__ = ["Config", "ConfigError", "build_calendar", "effective_yaml", "ignored_variables", "load_config"]
