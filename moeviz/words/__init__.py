"""Numbers, settings and results in words, once, for pages, reports, the command line and alt texts; and the
glossary.

Knows numbers and settings, neither figures nor widgets nor terminals. Texts are plain: whoever shows them
escapes them.

    verdict("lru", repeated(runs_of_lru), "lfu", repeated(runs_of_lfu))
    # 'lfu hits 4.0 points more than lru; speed: lfu is 9% faster in the median pair (1.07 to 1.12 of the
    # other's speed).'
"""

from __future__ import annotations

from moeviz.amounts import UNKNOWN as UNKNOWN
from moeviz.amounts import digits as digits
from moeviz.amounts import many as many
from moeviz.amounts import mean as mean
from moeviz.amounts import memory as memory
from moeviz.amounts import milliseconds as milliseconds
from moeviz.amounts import part_of as part_of
from moeviz.amounts import percent as percent
from moeviz.amounts import points as points
from moeviz.amounts import rate as rate
from moeviz.amounts import seconds_left as seconds_left
from moeviz.amounts import size as size
from moeviz.amounts import speed as speed
from moeviz.words.names import MISS_KINDS as MISS_KINDS
from moeviz.words.names import OUTCOMES as OUTCOMES
from moeviz.words.names import POLICY_NAMES as POLICY_NAMES
from moeviz.words.names import SIGNS as SIGNS
from moeviz.words.names import calibrated_on_itself as calibrated_on_itself
from moeviz.words.names import label as label
from moeviz.words.names import memory_held as memory_held
from moeviz.words.names import policy_name as policy_name
from moeviz.words.names import prefetch_name as prefetch_name
from moeviz.words.names import setting_name as setting_name
from moeviz.words.names import setting_names as setting_names
from moeviz.words.names import settings as settings
from moeviz.words.passes import from_to as from_to
from moeviz.words.passes import passes_of as passes_of
from moeviz.words.plain import harmless as harmless
from moeviz.words.plain import lines as lines
from moeviz.words.results import about as about
from moeviz.words.results import beyond_hits as beyond_hits
from moeviz.words.results import counted as counted
from moeviz.words.results import difference as difference
from moeviz.words.results import gap as gap
from moeviz.words.results import numbers as numbers
from moeviz.words.results import per_second as per_second
from moeviz.words.results import report as report
from moeviz.words.terms import GLOSSARY as GLOSSARY
from moeviz.words.terms import glossary as glossary
from moeviz.words.terms import terms_in as terms_in
from moeviz.words.terms import tooltip as tooltip
from moeviz.words.tiers import KEPT as KEPT
from moeviz.words.tiers import NO_OVERLAP as NO_OVERLAP
from moeviz.words.tiers import link_rate as link_rate
from moeviz.words.tiers import lossy as lossy
from moeviz.words.tiers import pace as pace
from moeviz.words.tiers import rounded as rounded
from moeviz.words.tiers import tier as tier
from moeviz.words.tiers import tier_row as tier_row
from moeviz.words.tiers import unpacking as unpacking
from moeviz.words.traces import choices as choices
from moeviz.words.traces import only_counts as only_counts
from moeviz.words.traces import routing as routing
from moeviz.words.traces import trace as trace
from moeviz.words.verdicts import SAME as SAME
from moeviz.words.verdicts import best_value as best_value
from moeviz.words.verdicts import comparison_verdict as comparison_verdict
from moeviz.words.verdicts import hit_verdict as hit_verdict
from moeviz.words.verdicts import speed_verdict as speed_verdict
from moeviz.words.verdicts import verdict as verdict
from moeviz.words.verdicts import worth_in_time as worth_in_time
