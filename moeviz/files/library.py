"""Traces kept between sessions: files in the user's data folder, never in the checkout.

keep("my run", moetrace.to_bytes(trace, run)); names()
"""

from __future__ import annotations

import os
import re
import threading
import unicodedata
from pathlib import Path

import platformdirs

from moeviz.core.trace import Trace
from moeviz.errors import SettingsError, TraceError
from moeviz.files import moecounts, moetrace
from moeviz.files.moecounts import Counts

SUFFIX = ".moetrace"
LONGEST = 80  # characters of a name
_LONGEST_BYTES = 200  # of a name; a file's may have 255, and while it is written its name is longer
_changing = threading.Lock()  # a name that is free stays so until it is taken


def folder() -> Path:
    """MOEVIZ_DATA, or the user's data folder."""
    return Path(os.environ.get("MOEVIZ_DATA") or platformdirs.user_data_dir("moeviz")) / "traces"


def safe_name(text: str) -> str:
    """A file name without its ending, whatever was uploaded: no folders, no control characters, nothing
    hidden. Raises TraceError.
    """
    plain = unicodedata.normalize("NFC", text).replace("\\", "/").rpartition("/")[2].removesuffix(SUFFIX)
    plain = re.sub(r"[^\w .,()+=@#-]", "_", plain).strip(" .")
    plain = _short(plain, LONGEST, _LONGEST_BYTES)
    if not plain or plain.upper() in ("CON", "PRN", "AUX", "NUL"):
        raise TraceError(
            f"{text[:40]!r} is no name for a trace. Use letters, digits, spaces and . , ( ) + - = @ #."
        )
    return plain


def path(name: str) -> Path:
    """Where a trace of this name is kept, or would be. Raises TraceError."""
    return _there().get(name) or folder() / (safe_name(name) + SUFFIX)


def names() -> list[str]:
    """Kept traces, sorted."""
    return sorted(_there())


def _there() -> dict[str, Path]:
    """The files, by a name that can be shown: whoever puts one into the folder by hand may call it as no name
    here can be, in bytes that are no text even.
    """
    files = folder().glob("*" + SUFFIX)
    return {moetrace.shown(file.stem): file for file in files}


def keep(name: str, content: bytes) -> str:
    """Writes a trace; gives the name that it got. A name that is taken is numbered. Raises TraceError or
    OSError.
    """
    wanted = safe_name(name)
    with _changing:
        chosen, number = wanted, 2
        while path(chosen).exists():
            chosen, number = _numbered(wanted, number), number + 1
        moetrace.write_atomically(path(chosen), content)
    return chosen


def _numbered(name: str, number: int) -> str:
    """A name with a number behind it, no longer than a name may be."""
    end = f" ({number})"
    return _short(name, LONGEST - len(end), _LONGEST_BYTES - len(end)) + end


def _short(name: str, most: int, most_bytes: int) -> str:
    """At most so many characters, and so many bytes, of a name."""
    return name[:most].encode()[:most_bytes].decode(errors="ignore").strip(" .")


def rename(old: str, new: str) -> str:
    """Gives the new name. Raises TraceError where it is taken or no name, OSError where it cannot be done."""
    target = path(new)
    with _changing:
        if target.exists():
            raise TraceError(f"There is a trace named {target.stem!r} already. Choose another name.")
        path(old).rename(target)
    return target.stem


def fault(name: str) -> str:
    """Why a kept trace cannot be read; empty where it can."""
    try:
        moetrace.load(path(name))
    except (TraceError, OSError) as error:
        return str(error)
    return ""


def delete(name: str) -> None:
    """Raises OSError."""
    path(name).unlink()


def named_trace(name: str) -> Trace | Counts:
    """A trace file or a .moecounts file by its path, or a bundled sample by its name. Raises SettingsError.

    Only for what a user typed: names that stand in a file never come here.
    """
    if name in moetrace.sample_names():
        return moetrace.sample(name)
    if not Path(name).is_file():
        raise SettingsError(
            f"calibration {name!r} is no trace file and no sample. Give a .moetrace or .moecounts file, or "
            f"one of {', '.join(moetrace.sample_names())}."
        )
    try:
        return moecounts.load(name) if name.endswith(moecounts.SUFFIX) else moetrace.load(name)[0]
    except (TraceError, OSError) as error:
        raise SettingsError(f"calibration {name!r} cannot be read: {error}") from None
