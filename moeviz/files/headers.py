"""What a checkpoint says of itself: its configuration, and the names, types and shapes of its tensors. Reads
no weight, loads no torch.

A folder is read where it is; of a hub id only `config.json` and the headers of the safetensors files are
fetched, a few megabytes of however many hundred gigabytes. Which tensors are experts is the business of
`moeviz.numbers.sizes`.

    read("moeviz/demo_model").tensors["model.embed_tokens.weight"].bytes        # 2097152
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from moeviz.errors import ModelError
from moeviz.numbers.sizes import Headers, Tensor

MAX_JSON_BYTES = (
    64 * 2**20
)  # of config.json or an index; the index of a checkpoint of 100,000 tensors has 10 MB
_INDEX = "model.safetensors.index.json"
_ONE = "model.safetensors"
_AGAIN = "Save or download the checkpoint again."
CHECKPOINT: dict[str, Any] = {
    "allow_patterns": ["*.json", "*.safetensors", "*.model", "*.txt"],
    "ignore_patterns": ["*/*"],  # folders within hold the same weights in other formats
}
"""What of a hub id's files is downloaded. Without it, one that was downloaded so counts as not whole."""
CHOOSE = "Choose a folder that save_pretrained wrote, or a hub id (owner/name)."


def no_folder(name: str) -> str:
    """Why a name can be neither a model's folder nor a hub id; empty where it may be one."""
    path = Path(name)
    if name.endswith(".gguf") or (
        path.is_dir() and list(path.glob("*.gguf")) and not (path / "config.json").exists()
    ):
        return (
            f"{name} is a GGUF file, which llama.cpp reads. moeviz reads the folder or hub id of a "
            "transformers checkpoint "
            "(config.json and *.safetensors): choose the one that the GGUF was made from."
        )
    if path.is_file():
        return f"{name} is a file. Choose the folder that it is in, with config.json and *.safetensors."
    looks_like_a_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name
    if looks_like_a_path and not path.is_dir():
        return f"There is no folder {name}. {CHOOSE}"
    if path.is_dir() and not (path / "config.json").exists():
        return f"The folder {name} has no config.json, so it is no model. {CHOOSE}"
    return ""


def no_hub_id(name: object, cause: str) -> str:
    """The message for a name that is no folder here, and of which the hub says so."""
    if re.search("gated|private|40[134]|not a valid model identifier", cause):
        way = (
            "Check how it is written; if it is gated or private, accept its terms on huggingface.co and log "
            "in: hf auth login."
        )
    else:
        way = "Choose a folder with a model, or a hub id that is reachable."
    return f"{name} is no folder, and as a hub id it cannot be read: {cause.rstrip('.')}. {way}"


def read(name: str) -> Headers:
    """Of a folder, or of a hub id whose files are in the local cache or can be reached. Raises ModelError."""
    if why := no_folder(name):
        raise ModelError(why)
    if Path(name).is_dir():
        return _of_folder(Path(name))
    kept = _kept(name)
    return _of_folder(kept) if kept is not None else _of_hub(name)


def _of_folder(folder: Path) -> Headers:
    tensors: dict[str, Tensor] = {}
    for path in _shards(folder):
        try:
            with safe_open(path, "np") as file:
                for name in file.keys():  # noqa: SIM118
                    part = file.get_slice(name)
                    tensors[name] = Tensor(part.get_dtype(), tuple(part.get_shape()))
        except FileNotFoundError:
            raise ModelError(f"{folder} lacks {path.name}, which its index names. {_AGAIN}") from None
        except (SafetensorError, OSError) as error:
            cause = str(error).strip().splitlines()[0]
            raise ModelError(f"{path} is cut short or damaged ({cause}). {_AGAIN}") from None
    return Headers(_json(folder / "config.json"), tensors)


def _shards(folder: Path) -> list[Path]:
    """The files that transformers would read: one of the usual name, else those of the index."""
    if (folder / _ONE).is_file():
        return [folder / _ONE]
    if not (folder / _INDEX).is_file():
        raise ModelError(
            f"{folder} has neither {_ONE} nor {_INDEX}, so its sizes cannot be read. "
            "Save it again as safetensors (save_pretrained does)."
        )
    places = _json(folder / _INDEX).get("weight_map")
    names = places.values() if isinstance(places, dict) else [None]
    files = {name for name in names if isinstance(name, str) and Path(name).name == name}
    if files != set(map(str, names)):
        raise ModelError(
            f"{folder / _INDEX} does not say which file of the folder holds which tensor. {_AGAIN}"
        )
    return [folder / name for name in sorted(files)]


def _json(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ModelError(
                f"{path} has {path.stat().st_size:,} bytes; at most {MAX_JSON_BYTES:,} are read."
            )
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{path} cannot be read as JSON: {str(error).strip() or 'too deep'}. {_AGAIN}"
        ) from None
    if not isinstance(found, dict):
        raise ModelError(f"{path} holds no JSON object. {_AGAIN}")
    return found


def _kept(name: str) -> Path | None:
    """The folder of a hub id whose checkpoint was downloaded before; None where it was not, or not whole."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        folder = Path(snapshot_download(name, local_files_only=True, **CHECKPOINT))
        shards = _shards(folder)
    except (OSError, HFValidationError, ModelError):
        return None
    return folder if (folder / "config.json").is_file() and all(path.is_file() for path in shards) else None


def _of_hub(name: str) -> Headers:
    from huggingface_hub import get_safetensors_metadata, hf_hub_download
    from huggingface_hub.errors import NotASafetensorsRepoError

    found = None
    try:
        with suppress(NotASafetensorsRepoError):  # which is said of a model that is not there as well
            found = get_safetensors_metadata(name)  # asks once; a download would ask again and again first
        config = _json(Path(hf_hub_download(name, "config.json")))
    except ModelError:
        raise
    except Exception as error:  # the hub's own errors, and those of whichever library carries its requests
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(no_hub_id(name, cause)) from None
    if found is None:
        raise ModelError(f"{name} holds no safetensors files, so its sizes cannot be read.")
    return Headers(
        config,
        {
            tensor: Tensor(about.dtype, tuple(about.shape))
            for file in found.files_metadata.values()
            for tensor, about in file.tensors.items()
        },
    )
