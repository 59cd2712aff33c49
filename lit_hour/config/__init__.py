"""Settings: dataclasses with defaults, units and ranges, and how they are loaded.

`from lit_hour.config.load import load_config` and `from lit_hour.config.schema import Config` are
the entry points.
"""
