"""Reads files that a user names: regular ones only, and no more of them than a limit."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from moeviz.errors import TraceError


def read_regular(path: str | os.PathLike[str], most: int) -> bytes:
    """The content. Raises TraceError where this is a device, a pipe or a folder, or larger than `most` bytes;
    OSError, which names the file, otherwise.
    """
    path = Path(path)
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        what = "a folder" if stat.S_ISDIR(about.st_mode) else "no regular file"
        raise TraceError(f"{path} is {what}; expected a trace file.")
    if about.st_size > most:
        raise TraceError(f"{path.name} has {about.st_size:,} bytes; a trace has at most {most:,}.")
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:  # a disk that fails while it is read does not say of which file
        raise OSError(error.errno, error.strerror, str(path)) from None
    if len(content) > most:
        raise TraceError(f"{path.name} has more than {most:,} bytes; a trace has at most {most:,}.")
    return content
