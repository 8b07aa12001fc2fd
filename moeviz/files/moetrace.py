"""The trace file `*.moetrace`: a safetensors file with a JSON header in its metadata.

Nothing in it runs when it is read, and the format checks every size. Tensors are those of
`moeviz.core.trace.TENSORS` (those that are unknown are absent) and, where a recorded run travels along, the
columns of `moeviz.core.run.COLUMNS` under `run.`. Version 2 is written; version 1, whose columns had other
names, is read. Readers check everything, name what is wrong, and repair nothing.

    trace, run = load("sample_traces/bible.moetrace")
    save("again.moetrace", trace, run)
"""

from __future__ import annotations

import json
import os
import re
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from moeviz.core.policies import POLICIES
from moeviz.core.predictors import PREDICTORS
from moeviz.core.run import COLUMNS, ExpertBytes, Run, Tier
from moeviz.core.settings import ITSELF, Settings
from moeviz.core.trace import OPTIONAL, TENSORS, Trace
from moeviz.errors import RunError, SettingsError, TraceError
from moeviz.files.believe import check_run
from moeviz.files.reading import read_regular

_T = TypeVar("_T", int, str)

FORMAT = "moetrace"
VERSIONS = (1, 2)
MAX_FILE_BYTES = 500 * 2**20
SAMPLES = Path(__file__).parents[2] / "sample_traces"  # bundled, by name
RUN_PREFIX = "run."  # of the columns of a recorded run in the same file
_LEFT_OUT = "The recorded run was left out"
_SELDOM = "leavers."  # columns that stand in a file only where they have rows

_FIRST_NAMES = {  # a table's columns in version 1: "pass_phase" is now "passes.phase"
    "pass_": "passes.",
    "event_pass": "events.forward_pass",
    "event_": "events.",
    "access_": "accesses.",
    "load_": "loads.",
    "victim_": "loads.victim_",
    "start_": "start.",
    "times.": "times.",
}


def to_bytes(trace: Trace, run: Run | None = None) -> bytes:
    """The file's content, with a recorded run beside the trace if one is given."""
    tensors = {
        name: np.ascontiguousarray(array) for name in TENSORS if (array := getattr(trace, name)) is not None
    }
    header: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSIONS[-1],
        "model": trace.model,
        "revision": trace.revision,
        "num_experts": trace.num_experts,
        "k": trace.k,
        "layer_indices": list(trace.layer_indices),
        "expert_bytes": trace.expert_bytes,
        "link_bytes": trace.link_bytes,
        "texts": list(trace.texts),
        "prompt": trace.prompt,
        "seed": trace.seed,
        "recorded": trace.recorded,
        "notes": list(trace.notes),
    }
    if run is not None:
        tensors |= _columns(run)
        header["run"] = _about(run)
    return bytes(save_safetensors(tensors, {"moetrace": json.dumps(header)}))


def run_to_bytes(run: Run) -> bytes:
    """A run without its trace, for a reader that has the trace already."""
    return bytes(save_safetensors(_columns(run), {"run": json.dumps(_about(run))}))


def run_from_bytes(content: bytes) -> Run:
    """What `run_to_bytes` gave, in the same program: it is not held against a trace. Raises RunError."""
    (size,) = struct.unpack("<Q", content[:8])
    about = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["run"])
    columns = load_safetensors(content)
    return _run({name.removeprefix(RUN_PREFIX): column for name, column in columns.items()}, about)


def _columns(run: Run) -> dict[str, NDArray[Any]]:
    return {
        RUN_PREFIX + name: np.ascontiguousarray(column)
        for name, column in run.columns().items()
        if len(column) or not name.startswith(_SELDOM)
    }


def _about(run: Run) -> dict[str, Any]:
    """Header of a run."""
    return {
        "settings": run.settings.to_dict(),
        "layers": run.layers,
        "experts": run.experts,
        "k": run.k,
        "expert_bytes": run.expert_bytes,
        "link_bytes": run.link_bytes,
        "tier": run.tier.to_dict() if run.tier else None,
        "output_ids": list(run.output_ids),
    }


def save(path: str | os.PathLike[str], trace: Trace, run: Run | None = None) -> None:
    """Writes beside the place and renames, so that a reader never sees half a file. Raises OSError."""
    write_atomically(Path(path), to_bytes(trace, run))


def load(path: str | os.PathLike[str]) -> tuple[Trace, Run | None]:
    """Trace and, if the file has one, recorded run. Raises TraceError or OSError."""
    return from_bytes(read_regular(path, MAX_FILE_BYTES), Path(path).name)


def from_bytes(content: bytes, name: str = "the file") -> tuple[Trace, Run | None]:
    """Trace and recorded run of a file's content; `name` is for messages. Raises TraceError."""
    if len(content) > MAX_FILE_BYTES:
        raise TraceError(f"{name} has {len(content):,} bytes; a trace has at most {MAX_FILE_BYTES:,}.")
    header = _header(content, name)
    try:
        tensors = load_safetensors(content)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise TraceError(f"{name} is not a safetensors file: {str(error)[:100]}.") from None
    own = {key: value for key, value in tensors.items() if not key.startswith(RUN_PREFIX)}
    columns = {
        key.removeprefix(RUN_PREFIX): value for key, value in tensors.items() if key.startswith(RUN_PREFIX)
    }
    missing = sorted(TENSORS.keys() - OPTIONAL - own.keys())
    if missing:
        raise TraceError(f"{name} lacks {', '.join(missing)}; a trace has {', '.join(TENSORS)}.")
    unknown = sorted(own.keys() - TENSORS.keys())
    if unknown:
        raise TraceError(
            f"{name} holds {', '.join(unknown)!r}, which version {header['version']} of the format does not "
            f"know."
        )
    try:
        trace = Trace(
            **{tensor: own.get(tensor) for tensor in TENSORS},  # type: ignore[arg-type]
            num_experts=_field(header, "num_experts", int),
            texts=_strings(header, "texts"),
            model=_field(header, "model", str),
            revision=_field(header, "revision", str),
            layer_indices=tuple(_integers(header, "layer_indices")),
            expert_bytes=_sizes(header, "expert_bytes"),
            link_bytes=_sizes(header, "link_bytes") if header["version"] > 1 else 0,
            prompt=_field(header, "prompt", str),
            seed=_field(header, "seed", int),
            recorded=_recorded(header),
            notes=_strings(header, "notes") if header["version"] > 1 else (),
        )
        if _field(header, "k", int) != trace.k:
            raise TraceError(f"k is {header['k']} in the header, but experts has {trace.k} choices.")
        if "run" not in header:
            if columns:
                raise TraceError("the file holds a run's columns, but its header names no run.")
            return trace, None
        if header["version"] == 1:
            columns = {_now_named(column): values for column, values in columns.items()}
        if foreign := _not_here(header["run"]):
            note = f"{_LEFT_OUT}: {foreign}."
            return replace(trace, notes=(*trace.notes, note)), None
        run = _run(columns, header["run"])
        check_run(trace, run, sample)
    except (TraceError, RunError) as error:
        raise TraceError(f"{name}: {error}") from None
    return trace, run


def left_out(trace: Trace) -> bool:
    """Whether the file of a trace holds a run that was not read; the trace's last note then says why."""
    return bool(trace.notes) and trace.notes[-1].startswith(_LEFT_OUT)


def sample(name: str) -> Trace:
    """A bundled sample by its name. Raises SettingsError."""
    if name not in sample_names():
        raise SettingsError(f"{name!r} is no bundled sample. Choose one of {', '.join(sample_names())}.")
    return load(SAMPLES / f"{name}.moetrace")[0]


def sample_names() -> list[str]:
    return sorted(path.stem for path in SAMPLES.glob("*.moetrace"))


def _not_here(header: Any) -> str:
    """Why a run cannot be replayed on this machine though nothing is wrong with it; empty where it can.

    Nothing that a file names is opened or run: no policy's or predictor's file, no trace to calibrate on.
    """
    settings = header.get("settings") if isinstance(header, dict) else None
    if not isinstance(settings, dict):
        return ""
    policy, predictor, calibration = (settings.get(name) for name in ("policy", "prefetch", "calibration"))
    if isinstance(policy, str) and ".py:" in policy and policy not in POLICIES:
        return f"its policy {_short(policy)} is in a file of its user, which is not opened"
    if isinstance(predictor, str) and ".py:" in predictor and predictor not in PREDICTORS:
        return f"its predictor {_short(predictor)} is in a file of its user, which is not opened"
    if isinstance(calibration, str) and calibration not in ("", ITSELF, *sample_names()):
        return f"it was calibrated on {_short(calibration)}, which is no bundled sample and is not opened"
    return ""


def shown(text: str) -> str:
    """A file's name, or what is said of it, as text that can be written, whatever the name's bytes are:
    `b\\xff.moetrace`.
    """
    bytes_shown = re.sub("[\udc80-\udcff]", lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)
    return bytes_shown.encode(errors="backslashreplace").decode()


def write_atomically(path: Path, content: bytes) -> None:
    """Raises OSError, which names `path`; then nothing of the file is left behind and an older one is
    untouched.
    """
    import tempfile  # takes longer to load than a small trace to be read

    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(part, 0o666 & ~umask)  # mkstemp's file is the owner's alone
        os.replace(part, path)
    except BaseException as error:
        if part is not None:
            Path(part).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:  # a write that fails names no file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _now_named(column: str) -> str:
    """The present name of a column of version 1."""
    for before, now in sorted(_FIRST_NAMES.items(), key=lambda pair: -len(pair[0])):
        if column.startswith(before):
            return now + column.removeprefix(before)
    return column


def _run(columns: dict[str, NDArray[Any]], header: Any) -> Run:
    """Raises RunError."""
    none = {name: np.empty(0, dtype) for name, dtype in COLUMNS.items() if name.startswith(_SELDOM)}
    columns = none | columns
    timed = {name for name in COLUMNS if name.startswith("times.")}
    if columns.keys() not in (COLUMNS.keys(), COLUMNS.keys() - timed):
        odd = sorted(columns.keys() ^ COLUMNS.keys())
        raise RunError(f"the recorded run lacks or adds columns: {', '.join(odd)[:200]}.")
    for name, column in columns.items():
        if column.ndim != 1 or column.dtype != COLUMNS[name]:
            raise RunError(
                f"run.{name} is {column.dtype} with {column.ndim} dimensions; expected {COLUMNS[name]} with "
                f"1."
            )
    try:
        tier, output_ids = header["tier"], header["output_ids"]
        numbers = {name: header[name] for name in ("layers", "experts", "k")}
        if not all(type(value) is int for value in [*numbers.values(), *output_ids]):
            raise TypeError
        return Run.of_columns(
            columns,
            Settings.from_dict(header["settings"]),
            **numbers,
            expert_bytes=_sizes(header, "expert_bytes"),
            tier=None if tier is None else Tier.from_dict(tier),
            output_ids=tuple(output_ids),
            link_bytes=_sizes(header, "link_bytes") if "link_bytes" in header else 0,
        )
    except SettingsError as error:
        raise RunError(f"the recorded run's {error}") from None
    except TraceError as error:
        raise RunError(f"the recorded run's {error}") from None
    except (KeyError, TypeError, AttributeError):
        raise RunError("the recorded run's header lacks a field or has one of a wrong type.") from None


def _header(content: bytes, name: str) -> dict[str, Any]:
    """The JSON header, read from the safetensors metadata without touching a tensor."""
    if b'"moecounts"' in content[: 2**16] and content[8:9] == b"{":
        raise TraceError(
            f"{name} holds counts without order (.moecounts): no cache can be replayed on them. Give it as "
            "calibration of the policy static or of the warm start calibrated."
        )
    if len(content) < 8:
        raise TraceError(f"{name} has {len(content)} bytes and is no trace; expected a .moetrace file.")
    (size,) = struct.unpack("<Q", content[:8])
    if content[8:9] != b"{":
        raise TraceError(f"{name} is not a .moetrace file: no safetensors header stands at its beginning.")
    if size > len(content) - 8:
        raise TraceError(
            f"{name} is only a part of a .moetrace file: its header says more bytes than there are."
        )
    try:
        outer = json.loads(content[8 : 8 + size])
        header = json.loads(outer["__metadata__"]["moetrace"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise TraceError(f"{name} is not a .moetrace file: it has no moetrace header.") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise TraceError(f"{name} is not a .moetrace file: its header does not name the format {FORMAT!r}.")
    if type(header.get("version")) is not int or header["version"] not in VERSIONS:
        raise TraceError(
            f"{name} has version {_short(header.get('version'))} of the format; this moeviz reads versions "
            f"{' and '.join(map(str, VERSIONS))}."
        )
    return header


def _field(header: dict[str, Any], name: str, kind: type[_T]) -> _T:
    value = header.get(name)
    if type(value) is not kind:
        raise TraceError(f"{name} is {_short(value)} in the header; expected {kind.__name__}.")
    if kind is int and not 0 <= value < 2**62:  # type: ignore[operator]
        raise TraceError(f"{name} is {_short(value)} in the header; expected a number from 0.")
    return value


def _sizes(header: dict[str, Any], name: str) -> ExpertBytes:
    """One number, or a list of one a layer."""
    if isinstance(header.get(name), list):
        return tuple(_integers(header, name))
    return _field(header, name, int)


def _strings(header: dict[str, Any], name: str) -> tuple[str, ...]:
    value = header.get(name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TraceError(f"{name} is {_short(value)} in the header; expected a list of strings.")
    return tuple(value)


def _integers(header: dict[str, Any], name: str) -> list[int]:
    value = header.get(name)
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        raise TraceError(f"{name} is {_short(value)} in the header; expected a list of whole numbers.")
    return value


def _recorded(header: dict[str, Any]) -> dict[str, str]:
    value = header.get("recorded")
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise TraceError(f"recorded is {_short(value)} in the header; expected names and strings.")
    return value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
