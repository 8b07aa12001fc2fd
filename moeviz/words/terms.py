"""The glossary: what the terms of the field mean, and where a text uses them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from moeviz.core.policies import POLICIES
from moeviz.core.predictors import PREDICTORS

GLOSSARY = {
    # the model
    "MoE layer": "A layer that holds many experts and a router, and uses few of them for each token.",
    "expert": "One of a MoE layer's small networks; a token passes through the few that its router chooses.",
    "router": "The part of a MoE layer that chooses which experts compute a token.",
    "top-k": "How many experts a router chooses for each token.",
    "router weight": "How strongly a router wants an expert; the results of the chosen ones are mixed by it.",
    "token": "A piece of text, about a short word, that a model reads or writes in one step.",
    "forward pass": "One run through all layers: the whole prompt at first, then one token each time.",
    "pass": "A forward pass: one run through all layers.",
    "phase": "Reading the prompt (prefill), or writing token by token (decode).",
    "prompt": "The text that a model is given to go on with.",
    "context": "The tokens that a model still sees; it keeps keys and values of each.",
    "temperature": "How freely a model chooses its next token: at 0 always the likeliest.",
    "seed": "The number that chance begins with; with the same one a run comes out the same.",
    "prefill": "The first forward pass, which reads the whole prompt at once.",
    "decode": "The forward passes after the prompt, each of which writes one token.",
    # the tiers
    "fast tier": "Where experts are computed: an accelerator's memory, or RAM on a machine without one.",
    "device": "What computes and holds the fast tier: the CPU, or an accelerator such as a GPU.",
    "slow tier": "Where all experts live, a disk or the host's RAM; they have to be copied to compute.",
    "link": "The way from the slow tier to the fast one; it copies one expert at a time.",
    "slot": "Room for one expert in the fast tier.",
    "expert cache": "The slots, and the policy that decides who leaves when another expert needs one.",
    "compute": "The arithmetic of the layers, as against copying.",
    "PCIe": "The bus between a computer's own memory and its accelerator or drives.",
    "NVMe": "A drive on PCIe: several GB a second.",
    "SATA SSD": "A drive on an older bus: about half a GB a second.",
    "SD card": "A memory card: about a tenth of a GB a second.",
    "resident": "In a slot of the fast tier. As a baseline: every expert is, from the start.",
    "scope": "Whose the slots are: each MoE layer has its own (layer), or all layers share one pool (model).",
    "warm start": "What is resident when a run begins; a cold cache begins empty.",
    "budget": "Bytes for experts in all, in place of a number of slots.",
    "rule": "How the experts of an event are served: together (pinned), one by one, or in batches of tokens.",
    "pinned": "The rule that all experts of an event are needed at once: none leaves for another.",
    "one-by-one": "The rule of ordinary caches: one access after another, nothing is held.",
    "in-order": "As pinned, but the weakest of an event's experts counts as used last, not the strongest.",
    "batch": "The rule that several tokens at a time need the union of their experts.",
    "baseline": "A way without a cache of one's own choice, to compare with.",
    "on-demand": "The baseline that keeps nothing: every needed expert is copied every time.",
    "whole-layer": "The baseline that copies every expert of a layer each time the layer is reached.",
    # what happens
    "access": "One expert that one MoE layer needs in one forward pass.",
    "event": "One MoE layer in one forward pass, with all the experts that its tokens need there.",
    "hit": "An access whose expert was resident and loaded.",
    "late hit": "An access whose expert was still on its way when it was needed.",
    "miss": "An access whose expert was not in the fast tier: it has to be copied while compute waits.",
    "hit ratio": "Hits as a part of all accesses.",
    "whole-token hit": "A token that found every expert of every layer: it waits for its slowest one.",
    "eviction": "An expert loses its slot to another.",
    "victim": "The expert that an eviction drops.",
    "cold": "Kind of miss: the expert had never been loaded before.",
    "capacity": "Kind of miss: the expert was evicted in an earlier forward pass.",
    "collision": "Kind of miss: the expert was evicted earlier in the same forward pass that needs it.",
    "pollution": "Kind of miss: the expert was evicted by a pre-fetch that nobody used.",
    "regret": "An eviction is regretted where another expert could have left that was needed later.",
    "policy": "The rule that says which resident expert leaves: each gets a score, and the lowest leaves.",
    "score": "The number that a policy gives a resident expert; the lowest leaves.",
    "half-life": "Tokens after which a use counts half, for the policy lfu-aged.",
    "calibration": "Counts of each expert's use in an earlier trace, for policies that have to know them.",
    "bound": "What no policy can beat at these slots: belady's hits, which takes knowledge of the future.",
    "belady": "The policy that knows the future and drops the expert that is needed again last.",
    "gap captured": "How much of what is possible a policy gets: of the hits that belady has more than lru; "
    "below 0 it has fewer than lru.",
    # pre-fetching
    "pre-fetch": "Copying an expert before it is needed, because it was guessed.",
    "guess": "An expert that a predictor expects a later layer to need.",
    "predictor": "What guesses which experts a later layer will need.",
    "demand": "A copy on demand: the expert was needed and was not there.",
    "lookahead": "How many MoE layers ahead a guess is made.",
    "width": "How many experts are guessed at a time.",
    "threshold": "The probability that the guessed experts have to reach together.",
    "precision": "The part of the guessed experts that were needed.",
    "recall": "The part of the needed experts that were guessed.",
    "useful": "A pre-fetch whose expert was needed before it was evicted.",
    "wasted": "A pre-fetch whose expert was evicted, or left over, without being needed.",
    # time
    "stall": "Time that compute waits for a copy: until compute goes on, a moment after the copy is there.",
    "overlap": "The part of the copying that compute did not wait for: 1 - stall / transfer time.",
    "TTFT": "Time to first token: from the prompt to the first token that is written.",
    "TPOT": "Time per output token, once the first has been written.",
    "median": "The middle one of several numbers: half of them lie below it.",
    "p95": "Of a hundred times, 95 were at most this long.",
    "paced": "Slowed down, by waiting, to a rate that is named.",
    "lane": "A row of a drawing over time: what compute does, or the link.",
    "spread": "From the least to the most of the repeats of one measurement.",
    "measured": "Timed while the model ran.",
    "replayed": "What a cache would have done on a recorded trace: exact decisions, no times.",
    "modelled": "Computed by a cost model that was fitted on a measured run; not timed.",
    "recorded": "What the routers chose; it is the same for every cache.",
    "int8": "Experts rounded to 8 bits a weight: half of bfloat16, and not quite the same results.",
    "int4": "Experts rounded to 4 bits a weight: a quarter of bfloat16, and further from the same results.",
    "lossless": "The logits are those of transformers' own model with every expert in memory, bit for bit.",
    # things
    "trace": "What the routers chose for each token of a text, in a file; any cache can be replayed on it.",
    "run": "What a cache did on a trace, and how long it took where that was measured.",
    "published curve": "Hit ratios that others published, of their model and text; with their source.",
    "knee": "The number of slots beyond which each further slot brings less than the average one.",
    "break-even": "The hit ratio above which a cache beats keeping some layers resident in the same memory.",
    "skew": "How unevenly experts are used: the more, the more a few of them do most of the work.",
    "domain": "What kind of text it is, told from the experts alone: Bible, German, Python or another.",
    "cosine": "How alike two shares are: 1 where they are the same, 0 where nothing is in common.",
    "reuse": "The part of a token's experts that the token before it used in the same layer.",
    "entropy": "How evenly a layer's experts are used: 1 is even, 0 means that one expert gets every choice.",
}


def glossary(terms: Sequence[str]) -> list[tuple[str, str]]:
    """Terms and what they mean, in the order given. Raises KeyError where one is not in the glossary."""
    return [(term, GLOSSARY[term]) for term in terms]


def _forms(term: str) -> str:
    """A pattern of a term, its plural and its past, with or without hyphens: policies, missed, prefetch."""
    stem = re.escape(term[:-1] if term.endswith("y") else term).replace(r"\-", "-?")
    return rf"{stem}(?:y|ies)" if term.endswith("y") else rf"{stem}(?:s|es|t?ed)?"


_TOLD = {  # names that a chart or a menu may show, and what each means
    **{name: one.text.partition("\n")[0] for name, one in PREDICTORS.items()},
    **{name: one.text.partition("\n")[0] for name, one in POLICIES.items()},
    **GLOSSARY,
}
_BY_LENGTH = sorted(_TOLD, key=len, reverse=True)  # so that "hit ratio" is found before "hit"
_TERMS = re.compile("|".join(rf"\b({_forms(term)})\b" for term in _BY_LENGTH), re.IGNORECASE)


def terms_in(*texts: str) -> list[str]:
    """Terms in these texts, singular or plural, each once: the glossary's, policies and predictors."""
    found = (
        _BY_LENGTH[match.lastindex - 1]
        for text in texts
        for match in _TERMS.finditer(text)
        if match.lastindex
    )
    return list(dict.fromkeys(found))


@lru_cache(4_096)
def tooltip(*texts: str, more: str = "") -> str | None:
    """What the terms in these texts mean, as Markdown for a tooltip; `more`, plain Markdown, stands before
    them. None where there is nothing to say.
    """
    told = [f"**{term}**: {_TOLD[term]}" for term in terms_in(*texts)]
    return "\n\n".join([*([more] if more else []), *told]) or None
