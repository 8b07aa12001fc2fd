"""Arrays that numpy saved (`.npy`, `.npz`), as vLLM's routed experts are: integer [token, layer, k].

vLLM 0.21 to 0.23 returns `routed_experts` and `prompt_routed_experts` with a request
(`--enable-return-routed-experts`); people save them with np.save and np.savez, one array a request or with
`weights` beside them.
"""

from __future__ import annotations

from moeviz.errors import TraceError
from moeviz.files.importers.arrays import from_arrays
from moeviz.files.importers.names import unused
from moeviz.files.importers.numpy_files import MAGIC, ZIP, open_zip, read_npy, read_npz
from moeviz.files.importers.registry import Found, Options, importer
from moeviz.files.importers.source import Source

NAME = "vllm"


def sniff(source: Source) -> int:
    """By its magic bytes; of a zip, one that holds arrays."""
    if source.content[:6] == MAGIC:
        return 2
    return int(source.content[:4] == ZIP and b"data.pkl" not in source.content[:4096] and _has_arrays(source))


def _has_arrays(source: Source) -> bool:
    """By the members' names, which numpy ends in .npy. True of a damaged zip: what is wrong is then said."""
    try:
        return any(name.endswith(".npy") or "." not in name for name in open_zip(source))
    except TraceError:
        return True


@importer(NAME, "vLLM's routed experts and other arrays of numpy (.npy, .npz)", sniff)
def read(source: Source, options: Options) -> Found:
    """Raises TraceError."""
    if source.content[:4] != ZIP:
        return from_arrays(source, options, {"": read_npy(source, source.content)}, NAME)
    arrays, left = read_npz(source)
    found = from_arrays(source, options, arrays, NAME)
    found.report.extend(unused(left, "members without plain numbers are"))
    return found
