"""Policies and predictors from a user's own file, named as `path.py:name`. Runs that file; only for what a
user typed."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from traceback import walk_tb
from typing import Any

from moeviz.errors import ArgumentError, PolicyError

MOEVIZ = Path(__file__).parents[1]  # its own code
OF_A_FILE = "moeviz_user_"  # begins the name of the module that a user's file is run as
MOST_SAID = 300  # characters of what an error says


def first_paragraph(doc: str | None) -> str:
    """Of a docstring, on one line."""
    return " ".join(inspect.cleandoc(doc or "").partition("\n\n")[0].split())


def short(name: str) -> str:
    """A policy or predictor as people read it: of a file of their own without its folder, `mru.py:mru`; the
    file stays, since two files may have one of the same name."""
    file, colon, own = name.rpartition(":")
    return f"{Path(file).name}{colon}{own}"


def failed(kind: str, name: str, error: BaseException) -> PolicyError:
    """What is said of a policy or predictor of a user's own that raises while it is at work."""
    return PolicyError(f"{kind} {short(name)!r} failed at its work: {told(name, error)}.")


def told(name: str, error: BaseException) -> str:
    """What a policy or predictor of a user's own raised, and where in its file, on one line:
    "IndexError: list index out of range (mine.py, line 12)"."""
    said = " ".join(str(error).split()).rstrip(".")
    said = said if len(said) <= MOST_SAID else f"{said[:MOST_SAID]}…"
    at = _place(name.rpartition(":")[0], error)
    return type(error).__name__ + (f": {said}" if said else "") + (f" ({at})" if at else "")


def _place(file: str, error: BaseException) -> str:
    """The last line of a user's own file that an error came through, in words; empty where there is none.
    `file`: where the name says it, else it is the first that is not moeviz's."""
    lines = [(Path(frame.f_code.co_filename), line) for frame, line in walk_tb(error.__traceback__)]
    own = Path(file).resolve() if file else next((one for one, _ in lines if _is_theirs(one)), None)
    at = [f"{one.name}, line {line}" for one, line in lines if own in (one, one.resolve())]
    return at[-1] if at else ""


def _is_theirs(file: Path) -> bool:
    return MOEVIZ not in file.parents and "site-packages" not in file.parts


def is_ours(made: Any) -> bool:
    """Whether a function or class is moeviz's own."""
    return _module(made).startswith("moeviz.")


def _module(made: Any) -> str:
    return getattr(made, "__module__", None) or ""


def not_ours(kind: str, name: str, known: Any, new: Any) -> None:
    """Raises ArgumentError where `new` code of a user's own takes a name of moeviz's, `known`, for the whole
    process. In a file that is named as path.py:name it may: there names are the file's."""
    if is_ours(known) and not is_ours(new) and not _module(new).startswith(OF_A_FILE):
        raise ArgumentError(f"{kind} {name!r} is moeviz's own. Give yours another name.")


def functions_of(kind: str, text: str, registry: dict[str, Any]) -> Any:
    """What the file of `path.py:name` registers or defines by that name; None where `text` is no such name.

    `kind`: policy or predictor, for messages. `registry`: where the file's decorators put what they register;
    it is left as it was, so that a file cannot replace what moeviz calls by a name. Raises PolicyError where
    the file is missing, fails, or has nothing of that name.
    """
    file, colon, name = text.rpartition(":")
    if not (colon and file.endswith(".py")):
        return None
    path = Path(file).expanduser()
    if not path.is_file():
        raise PolicyError(
            f"{kind} {text!r}: there is no file {file}. Write path.py:name, or choose one of "
            f"{', '.join(registry)}."
        )
    known = dict(registry)
    spec = importlib.util.spec_from_file_location(f"{OF_A_FILE}{kind}", path)
    assert spec is not None
    assert spec.loader is not None
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except PolicyError as error:
        raise PolicyError(f"{kind} {text!r}: {file} does not run: {error}") from None
    except (Exception, SystemExit) as error:
        raise PolicyError(f"{kind} {text!r}: {file} does not run: {told(text, error)}") from None
    finally:
        own = {key: value for key, value in registry.items() if known.get(key) is not value}
        registry.clear()
        registry.update(known)
    found = own.get(name) or getattr(module, name, None)
    if found is None or not (name in own or callable(found)):
        names = ", ".join(own) or "none"
        raise PolicyError(f"{kind} {text!r}: {file} registers no {kind} {name!r}. It registers: {names}.")
    return found
