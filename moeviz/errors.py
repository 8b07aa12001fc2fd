"""What can be wrong with what a user gave: one kind an origin, each with a message that names the cause and
the way out.

A page shows the message, the command line prints it and ends with exit code 2; nothing else may catch what is
not a `MoevizError`.
"""

from __future__ import annotations


class MoevizError(ValueError):
    """Something that whoever gave the input can mend; `str(error)` is one sentence or two for people."""


class ArgumentError(MoevizError):
    """An argument of another kind than a verb of the library takes; the message says what would do."""


class TraceError(MoevizError):
    """A trace that is not valid; the message names the field, what was found and what was expected."""


class RunError(MoevizError):
    """A recorded run that is not valid; the message names the field."""


class SettingsError(MoevizError):
    """Settings that cannot be run; the message names the field, the value and the way out."""


class PolicyError(MoevizError):
    """A policy or predictor that cannot be had; the message says why and what would do."""


class ExportError(MoevizError):
    """An export that cannot be made of this trace or run."""


class StageError(MoevizError):
    """A stage that cannot be made of this trace and these runs."""


class ModelError(MoevizError):
    """A model that cannot be run; the message names the cause and the way out."""


class StoreError(MoevizError):
    """A slow tier that cannot be made or read."""


class SweepError(MoevizError):
    """A sweep that cannot be begun or gone on with."""
