"""What a YAML file may say: its typed sections, reading it with places, `--set` overrides, the JSON Schema.

All about layers, losses, optimizers and initializers comes from their classes; this package names none of
them. It imports neither NumPy nor Numba, so that a config is checked in a fraction of a second.
"""

from nnjit.config.load import LoadedConfig, load_config, parse_config
from nnjit.config.schema import Config, TrainSection, dump, json_schema

__all__ = ["Config", "LoadedConfig", "TrainSection", "dump", "json_schema", "load_config", "parse_config"]
