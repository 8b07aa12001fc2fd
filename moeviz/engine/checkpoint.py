"""Is a checkpoint whole, does it need nobody's code, and what is wrong with it, in words, where transformers
cannot load it? Reads headers only; knows neither slots nor tiers.

check_files(Path("moeviz/demo_model"))          # raises ModelError where a shard or a tensor is missing
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from moeviz.engine.architectures import no_code
from moeviz.errors import ModelError, StoreError

_SHOWN = 4  # tensors that a message names
_ONE_EXPERT = re.compile(r"(.*\.experts\.)(\d+)(\..+)")


def check_files(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in a folder's safetensors files; empty where it has none.

    Raises ModelError where there are no weights at all, where a shard is missing or cut short, where a shard
    lacks a tensor that the index promises, and where one expert lacks a tensor that others of its layer have,
    or has it in another shape.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for path, promised in _shards(folder).items():
        if not path.exists():
            raise ModelError(f"{folder} lacks {path.name}, which holds {named(promised)}. {AGAIN}")
        try:
            with safe_open(path, "np") as file:
                names = list(file.keys())
                found = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        except (SafetensorError, OSError) as error:
            cause = str(error).strip().splitlines()[0]
            raise ModelError(f"{path} is cut short or damaged ({cause}). {AGAIN}") from None
        if absent := promised - found.keys():
            raise ModelError(f"{path} lacks {named(absent)}, which the folder's index promises. {AGAIN}")
        shapes |= found
    if not shapes and not any(folder.glob("*.bin")):
        raise ModelError(f"{folder} holds no weights, such as model.safetensors. {AGAIN}")
    _check_experts(folder, shapes)
    return shapes


def check_report(name: object, report: Mapping[str, Iterable[Any]]) -> None:
    """Raises ModelError for what `from_pretrained(..., output_loading_info=True)` reports.

    transformers has already taken out tied weights and what the architecture itself declares ignorable.
    """
    if missing := set(report["missing_keys"]):
        raise ModelError(
            f"{name} lacks {named(missing)}: it would run on random weights. (These are "
            f"transformers' names; the file may have others.) {AGAIN}"
        )
    if odd := {
        f"{key} is {list(found)}, not {list(asked)}" for key, found, asked in report["mismatched_keys"]
    }:
        raise ModelError(
            f"{name} has tensors of another shape than its configuration says: {named(odd)}. {AGAIN}"
        )
    if unknown := set(report["unexpected_keys"]):
        raise ModelError(
            f"{name} holds {named(unknown)}, for which its architecture has no place: its weights and its "
            f"configuration are of different models. {AGAIN}"
        )


def guarded(name: object, do: Callable[[], Any]) -> Any:
    """Turns what transformers raises for a broken checkpoint into one message."""
    try:
        return do()
    except (StoreError, ModelError):
        raise
    except ModuleNotFoundError as error:
        raise ModelError(
            f"{name} needs the package {error.name}, which is not installed. Install it: pip install "
            f"{error.name}"
        ) from None
    except OSError as error:
        if error.errno == 28:
            raise StoreError(
                f"There is no space left to load {name}. Make room, or set MOEVIZ_CACHE to a folder on a "
                "larger disk."
            ) from None
        raise ModelError(f"{name} cannot be loaded: {str(error).strip().splitlines()[0]}") from None
    except Exception as error:
        if needs_code(error):
            raise no_code(name) from None
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{name} cannot be loaded: {text}") from None


def needs_code(error: BaseException) -> bool:
    """True where transformers refused because Python code of the model folder would have had to run."""
    return "trust_remote_code" in str(error)


def named(tensors: Iterable[str]) -> str:
    """The first of them by name, and how many more."""
    names = sorted(tensors)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


AGAIN = "Save or download the checkpoint again."


def _shards(folder: Path) -> dict[Path, set[str]]:
    """The files that transformers will read, with the tensors that the index says they hold."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists():
        return {folder / "model.safetensors": set()}
    if not index.exists():
        return {}
    found: dict[Path, set[str]] = {}
    try:
        for tensor, file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items():
            found.setdefault(folder / Path(file).name, set()).add(tensor)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{index} cannot be read as an index of shards. {AGAIN}") from None
    return found


def _check_experts(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Where a checkpoint holds its experts one by one, all experts of a layer have the same tensors."""
    experts: dict[str, set[int]] = {}  # "...experts." -> ids
    tensors: dict[tuple[str, str], dict[int, tuple[int, ...]]] = {}  # ("...experts.", ".w1.weight") -> shapes
    for name, shape in shapes.items():
        if match := _ONE_EXPERT.fullmatch(name):
            before, number, after = match.groups()
            experts.setdefault(before, set()).add(int(number))
            tensors.setdefault((before, after), {})[int(number)] = shape
    absent, odd, extra = [], [], []
    for (before, after), found in tensors.items():
        if 2 * len(found) < len(experts[before]):
            extra += [f"{before}{number}{after}" for number in found]
            continue
        absent += [f"{before}{number}{after}" for number in experts[before] - found.keys()]
        shapes_of = list(found.values())
        usual = max(set(shapes_of), key=shapes_of.count)
        odd += [
            f"{before}{n}{after} is {list(shape)}, not {list(usual)}"
            for n, shape in found.items()
            if shape != usual
            and shapes_of.count(shape) == 1  # ERNIE 4.5 VL has experts of two sizes in one list
        ]
    if extra:
        raise ModelError(f"{folder} holds {named(extra)}, which most experts of the layer lack. {AGAIN}")
    if absent:
        raise ModelError(f"{folder} lacks {named(absent)}, which other experts of the layer have. {AGAIN}")
    if odd:
        raise ModelError(f"{folder} has experts of different shapes: {named(odd)}. {AGAIN}")
