"""Configuration: models and loading. Imports neither torch nor MLflow."""

from sdar.config.load import load_config, parse_config
from sdar.config.models import ExperimentConfig
from sdar.layout import Layout

__all__ = ["ExperimentConfig", "Layout", "load_config", "parse_config"]
