"""The sentences that the browser says on the stage, with {names} for it to fill in; of its own it has the
names of its buttons.

What settings, boards and results are called is in `moeviz.words`; why an expert left is told in the policy's
own words (`moeviz.numbers.explain`).
"""

from __future__ import annotations

from moeviz.words import SIGNS

PHRASES = {
    # what happened to the selected expert
    "hit": "Expert {expert} was needed and was there.",
    "late": "Expert {expert} was needed while its copy was still on the way.",
    "miss": "Expert {expert} was needed and was not there.",
    "resident": "Expert {expert} is there, but not needed now.",
    "prefetched": "Expert {expert} was fetched ahead and has not been needed yet.",
    "empty": "Expert {expert} is in the slow tier and not needed now.",
    "cold": "It has never been loaded before.",
    "left before": "It was here until {when}, then it left for expert {other}.",
    "left in pass": "It left for expert {other} earlier in this very token.",
    "came": "It came at {when}.",
    "came ahead": "It was fetched ahead at {when}.",
    "from the start": "It was there when the run began.",
    "kept nothing": "Nothing is kept between events here: each needed expert is copied every time.",
    "left for it": "Expert {victim} left for it: {why}.",
    "left for guess": "Expert {victim} left for it, for a guess: {why}.",
    "left too": "Experts differ in size, so these left for it too: {others}.",
    "victim is": "It leaves here for expert {newcomer}: {why}.",
    "free slot": "It took a free slot; nobody left.",
    "last use": "last needed {when}",
    "first use": "not needed before",
    "next use": "next needed {when}",
    "no next use": "never needed again",
    "no next use yet": "not needed since",
    "of layer": "{expert} of layer {layer}",
    # the bound's choice
    "belady agrees": "Belady would have dropped the same one: no regret.",
    "belady": "Belady, who knows the future, would have dropped expert {expert}.",
    "regret": "Expert {victim} comes back {count} sooner: a regretted choice.",
    "regret same": "Expert {victim} comes back within the same token: a regretted choice.",
    "regret never": "Expert {expert} is never needed again, expert {victim} is: a regretted choice.",
    "soon": "Why it left is being computed.",
    "told later": "Why it left is told when the run is over.",
    "untold": "This trace has too many evictions to tell each one's scores.",
    "other there": "Under {name} it was there.",
    "other late": "Under {name} it was on the way.",
    "other not": "Under {name} it was not there either.",
    "who was there": "who was there",
    "leaves": "leaves",
    "could leave": "",
    "belady's": "Belady's choice",
    "needed now": "stays, needed now",
    "held by a guess": "stays, held by a guess",
    "more there": "and {count} more",
    # time
    "this token": "in this token",
    "ago": "{count} ago",
    "in": "in {count}",
    "token": "1 token",
    "tokens": "{n} tokens",
    "at prompt": "the prompt",
    "at token": "token {n}",
    # the token as a whole
    "at pass": "pass {n}",
    "at prompt pass": "prompt, pass {n}",
    "at once": "{name}, {n} tokens at once",
    "lead": "{name} leads by {points} points so far.",
    "no lead": "So far both hit equally often.",
    "board line": "{name}: {hits} of {needs} there, {misses} had to come.",
    "board line all": "{name}: all {needs} were there.",
    "same": "Both find the same experts there.",
    "ask": "Click an expert, a token or the curve to ask about it.",
    # the link
    "waits for": "compute waits {ms} ms for {count}",
    "waits short": "waits {ms} ms",
    "copies": "a copy on its way",
    "ahead": "{n} fetched ahead",
    "waits no": "nothing to wait for, {ms} ms in all",
    "expert crosses": "1 expert",
    "experts cross": "{n} experts",
    "no times": "shows the order, not to scale: this text was not timed",
    "no times short": "not to scale: not timed",
    "no times yet": "not to scale yet: times come with the first token",
    "measured": "measured",
    "modelled short": "modelled",
    "modelled": "modelled from the run of {name}",
    "modelled over": "modelled over a {name}",
    "modelled over short": "modelled",
    "watched": "watched, which slows it",
    "watched short": "watched",
    "modelled watched": "modelled from the watched run of {name}",
    "modelled watched short": "modelled",
    # what was measured
    "time of a token": "time of a token:",
    "compute": "compute",
    "waits": "waits",
    "other": "other",
    # the boards
    "counts": "{hits} hit, {late}{misses} missed",
    "counts late": "{late} late, ",
    "board told": "{name}: {hits} there, {late} late, {misses} missing.",
    # the band and the curves
    "domain": "told from the experts of the {n} tokens around it, the text is {name}",
    "domain short": "by {n} tokens' experts: {name}",
    "domain why": "The colour of a token is the domain that the experts of the {n} tokens around it are used "
    "like: a change shows within some tokens of its dashed line.",
    "density": "the whole text: darker where more was missing",
    "part": "tokens {a} to {b} of {n}",
    "hit ratio": "hit ratio",
    "last": "last {n} tokens",
    "so far": "so far",
    "curves": "Thick: hits of the last {n} tokens. Thin: of all so far, as the large numbers say.",
    "curves after the prompt": "Thick: hits of the last {n} tokens, counted anew after the prompt. Thin: of all "
    "so far with the prompt, as the large numbers say.",
    "under": " ↓ below the axis",
    "bound": "Belady, the bound",
    "bound without": "Belady without pre-fetch",
    "no bound": "Belady, here no bound",
    "prompt": "prompt",
    # sizes
    "pooled": "{n} a cell, the worst of them; + zooms, drag moves.",
    "zoomed": "Layers {a} to {b}, experts {c} to {d}. 0 shows all, drag moves.",
    "race": "{time} s of {all} s, shown {factor} times {way}",
    "slower": "slower",
    "faster": "faster",
    "first done": "{name} is through first.",
}

KEYS = [
    ["Space", "play, pause"],
    ["← →", "one token back, on"],
    ["↑ ↓", "the expert above, below"],
    [", .", "one layer back, on: slow motion"],
    ["n  e  d  g", "next miss, eviction, difference, regretted eviction (with Shift: the one before)"],
    ["b", "the other board"],
    ["Home End", "first, last token"],
    ["+ - 0", "zoom the boards in, out, all"],
    ["Esc", "leave slow motion, let go of the selection"],
    ["p", "presenter mode"],
]

LEGEND = SIGNS | {"differs": "the boards differ"}
