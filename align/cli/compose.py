"""Compose a configuration from the words of a command line, inside this process. Imports no torch."""

from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from align.cli.errors import explain
from align.cli.groups import CONF
from align.cli.paths import literal_paths
from align.config import Config
from align.config.io import build, register_schemas


def composed(words: Sequence[str]) -> Config:
    """Compose the configuration that `align WORDS` would run; raise InputError where the command would refuse WORDS."""
    register_schemas()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return build(compose("config", literal_paths(words)))
    except Exception as error:
        raise explain(error, words) from error
