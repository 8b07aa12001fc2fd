"""Which checkpoints transformers can read with code of its own. Knows that without torch, which loading
transformers would load.

    check_type("m", {"model_type": "mixtral", "auto_map": {"AutoConfig": "odd.OddConfig"}})     # it can
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from moeviz.errors import ModelError
from moeviz.files.headers import CHOOSE


def check_type(name: object, config: Mapping[str, Any]) -> None:
    """Raises ModelError where transformers could read this configuration with Python code of the model only,
    or not at all: where loading it would."""
    check_own_code(name, config)
    if (kind := str(config.get("model_type", ""))) in _known():
        return
    raise no_code(name) if "AutoConfig" in config.get("auto_map", ()) else no_type(name, kind)


def check_own_code(name: object, config: Mapping[str, Any]) -> None:
    """Raises ModelError where a configuration does not say in a table which code a model has of its own: then
    transformers may stumble over it, whatever the type."""
    own = config.get("auto_map", {})
    if not isinstance(own, dict) or not all(isinstance(one, str | list) for one in own.values()):
        raise ModelError(
            f"{name} cannot be read as a model: auto_map of its configuration is no table of names. Take it "
            "out where transformers has the architecture itself."
        )


def no_type(name: object, kind: str) -> ModelError:
    """The message for a model of a type that transformers has not; empty where it names none."""
    if not kind:
        return ModelError(f"{name} cannot be read as a model: its configuration has no model_type. {CHOOSE}")
    return ModelError(
        f"{name} is of a type that transformers {version('transformers')} does not have: {kind[:60]}. Choose "
        "a checkpoint of one that it has."
    )


def no_code(name: object) -> ModelError:
    """The message for a model that cannot be loaded without code of its own."""
    return ModelError(
        f"{name} needs Python code that comes with the model (auto_map in its configuration), and moeviz "
        "runs no code of a model folder. Choose a checkpoint of an architecture that transformers "
        f"{version('transformers')} has itself."
    )


@cache
def _known() -> frozenset[str]:
    """Types of models that transformers has, read from its own list, which imports nothing."""
    package = find_spec("transformers")
    assert package is not None
    assert package.origin is not None
    file = Path(package.origin).parent / "models" / "auto" / "auto_mappings.py"
    spec = spec_from_file_location("moeviz_transformers_types", file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return frozenset(module.CONFIG_MAPPING_NAMES)
