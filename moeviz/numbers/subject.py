"""Where a text changes its subject, as its experts alone tell it.

Only for traces of the bundled model: it alone knows how often each of its experts is used on text of each
domain.

    subject_changes(trace)       # [Change(token=125, before="german", after="python")]
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from moeviz.core.oracle import BUNDLED_NAME
from moeviz.core.trace import Trace
from moeviz.numbers.routing import Floats, domain_use, likeness


@dataclass(frozen=True, slots=True)
class Change:
    """The first token of a new subject, and the names of the domains on both sides of it."""

    token: int
    before: str
    after: str


def known_domains(trace: Trace) -> dict[str, Floats]:
    """Use of the experts on text of each domain, name -> [L, E]. Empty where the trace is not the bundled
    model's.
    """
    return domain_use() if trace.model == BUNDLED_NAME else {}


def subject_changes(trace: Trace, window: int = 24) -> list[Change]:
    """Tokens from which the following `window` tokens are nearest to another domain than the preceding
    `window` tokens are.

    A change is placed where the two sides differ most: where (how much nearer the tokens after it are to the
    new domain than to the old one) + (how much nearer those before it are to the old one than to the new) is
    largest. Texts shorter than two windows, and changes within a window of an end, are not looked at: too few
    tokens would speak for one of the sides. Empty where the domains are not known.
    """
    domains = known_domains(trace)
    if not domains or trace.tokens < 2 * window:
        return []
    names = list(domains)
    ends = likeness(trace, domains, window)  # [domain, T] of the window that ends with each token
    tokens = np.arange(window, trace.tokens - window + 1)
    past, coming = ends[:, tokens - 1], ends[:, tokens + window - 1]
    before, after = past.argmax(0), coming.argmax(0)
    at = np.arange(len(tokens))
    apart = coming[after, at] - coming[before, at] + past[before, at] - past[after, at]
    found: list[Change] = []
    for pair in sorted(set(zip(before.tolist(), after.tolist(), strict=True))):
        if pair[0] == pair[1]:
            continue
        own = np.flatnonzero((before == pair[0]) & (after == pair[1]))
        for stretch in np.split(own, np.flatnonzero(np.diff(own) > window) + 1):
            if len(stretch) >= window // 2:  # a shorter flicker is no change of subject
                best = stretch[apart[stretch].argmax()]
                found.append(Change(int(tokens[best]), names[pair[0]], names[pair[1]]))
    return _in_a_row(sorted(found, key=lambda change: change.token))


def _in_a_row(changes: list[Change]) -> list[Change]:
    """Each change beginning with the domain that the one before it ended with."""
    row: list[Change] = []
    for change in changes:
        if row and change.before != row[-1].after:
            change = replace(change, before=row[-1].after)
        if change.before != change.after:
            row.append(change)
    return row
