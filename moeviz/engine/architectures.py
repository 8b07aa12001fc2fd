"""Which checkpoints would need Python code of their own: those of an architecture that transformers has not.
Knows that without torch, which loading transformers would load.

    needs_own_code({"model_type": "mixtral", "auto_map": {"AutoConfig": "odd.OddConfig"}})     # False
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from moeviz.errors import ModelError


def needs_own_code(config: Mapping[str, Any]) -> bool:
    """Whether transformers would have to run Python code of the model to read this configuration: the rule by
    which it refuses to load one."""
    own = config.get("auto_map")
    return isinstance(own, dict) and "AutoConfig" in own and str(config.get("model_type")) not in _known()


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
