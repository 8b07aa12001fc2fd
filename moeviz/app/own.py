"""Policies and predictors of a user's own files, named when the app is started, for every menu.

    streamlit run app.py -- --policy mru.py:mru --prefetch mine.py:same-again

Whoever starts the app chooses which files run. What a link or a trace file names is looked up among what is
registered, and opens nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from moeviz.core.policies import load_policy
from moeviz.core.predictors import load_predictor
from moeviz.errors import PolicyError

KINDS = {"--policy": load_policy, "--prefetch": load_predictor}
USAGE = "Start the app as: streamlit run app.py -- --policy path.py:name --prefetch path.py:name"
ROOM = "--room"  # for the gate


def said() -> list[str]:
    """What stands after `--` on the command line of this process."""
    line = sys.orig_argv  # sys.argv is changed while a page runs app.py around itself
    return line[line.index("--") + 1 :] if "--" in line else []


def given() -> list[str]:
    """What of it names files."""
    return [one for one in said() if one != ROOM]


def register(arguments: Sequence[str]) -> None:
    """Loads what the arguments of app.py name, each file once. Raises PolicyError."""
    if len(arguments) % 2 or not set(arguments[::2]) <= KINDS.keys():
        raise PolicyError(f"app.py does not know {' '.join(arguments)!r}. {USAGE}")
    for kind, text in zip(arguments[::2], arguments[1::2], strict=True):
        file, colon, name = text.rpartition(":")
        if not (colon and file.endswith(".py")):
            raise PolicyError(f"{kind} {text!r} is no file of your own. {USAGE}")
        path = Path(file).resolve()  # the worker runs in another folder
        if "," in str(path):
            raise PolicyError(
                f"{kind} {text!r}: a link names settings with commas between them, so {path} must hold none. "
                "Rename the file or its folder."
            )
        KINDS[kind](f"{path}:{name}")
