"""Lesson 8: two tools, one trace, two answers. The rule by which they serve an event decides."""

from __future__ import annotations

from moeviz.core.settings import Settings
from moeviz.lessons import drawing
from moeviz.lessons.lab import Lab
from moeviz.lessons.lesson import Answer, Choice, Picture, Said, Shown, Try, lesson
from moeviz.words import percent, points, policy_name

TRACE = "python-long"
SLOTS = 4
LRU, LFU, LOST = (policy_name(name) for name in ("lru", "lfu", "lfu-resident"))
OTHER_RULE = "one-by-one"
OURS = Settings("lru", SLOTS), Settings("lfu", SLOTS)
THEIRS = Settings("lru", SLOTS, rule=OTHER_RULE), Settings("lfu-resident", SLOTS, rule=OTHER_RULE)


def pictures(lab: Lab) -> tuple[Picture, ...]:
    """What each tool says: its "LFU" less its LRU."""
    ours, theirs = (_lead(lab, *pair) for pair in (OURS, THEIRS))
    most = max(abs(ours), abs(theirs))
    rows = [
        (f"tool {name}: {'LFU' if lead > 0 else 'LRU'} ahead", abs(lead))
        for name, lead in (("A", ours), ("B", theirs))
    ]
    text = (
        f"The same trace, the same {SLOTS} slots. Tool A finds its LFU {points(abs(ours))} "
        f"{'ahead of' if ours > 0 else 'behind'} its LRU, tool B {points(abs(theirs))} "
        f"{'ahead of' if theirs > 0 else 'behind'}."
    )
    return (Picture(drawing.bars(rows, "Lead in hit ratio", most=most, unit="points"), text),)


def _lead(lab: Lab, lru: Settings, lfu: Settings) -> float:
    """Hit ratio of the second less that of the first."""
    return lab.run(TRACE, lfu).hit_ratio - lab.run(TRACE, lru).hit_ratio


@lesson(
    8,
    "Two tools, one trace, two answers: who is wrong?",
    minutes=8,
    read=(
        "Two tools replay one trace of Python code. Each has an LRU and an LFU, and says which of the two "
        "hits more.",
        "They do not agree, although both read the same file.",
    ),
    ask="Which of the two has the error?",
    predict=Choice(("tool A", "tool B", "both", "neither, each follows rules of its own")),
    claim=(3, 3),
    pictures=pictures,
    goes_wrong="A class looks for the bug. Let two groups each serve one token by hand: one must have both "
    "experts in the slots at once, the other takes them one after the other. Both do what they say; a number "
    "without its rule says little.",
    try_it=Try(
        "stage",
        "Try tool B's rules on the stage",
        {
            "trace": f"sample: {TRACE}",
            "a": f"policy=lru,slots={SLOTS}",
            "b": f"policy=lfu-resident,slots={SLOTS}",
            "rule_both": OTHER_RULE,
        },
    ),
)
def answer(lab: Lab) -> Answer:
    trace = lab.trace(TRACE)
    ours, theirs = _lead(lab, *OURS), _lead(lab, *THEIRS)
    pinned, alone = (lab.run(TRACE, one).hit_ratio for one in (OURS[0], THEIRS[0]))
    same_flavour = _lead(lab, OURS[0], Settings("lfu-resident", SLOTS))
    same_rule = _lead(lab, THEIRS[0], Settings("lfu", SLOTS, rule=OTHER_RULE))
    right = 3 if ours > 0 > theirs else 0
    why = (
        Said(
            f"Both answers come out of one program here: by tool A's rules {LFU} leads by {points(ours)}, by "
            f"tool B's {LRU} by {points(-theirs)}.",
            ours > 0 > theirs,
        ),
        Said(
            f"Tool A serves a token's {trace.k} experts of a layer together: neither pushes the other out "
            f"(pinned). Tool B takes one after the other. That alone moves {LRU} from {percent(pinned)} to "
            f"{percent(alone)}.",
            alone < pinned,
        ),
        Said(f"And tool A's LFU is {LFU}, tool B's {LOST}: it forgets the count of whoever leaves."),
        Said(
            f"Neither difference alone turns the answer: together {LOST} still leads {LRU} by "
            f"{points(same_flavour)}; one after the other {LFU} leads by {points(same_rule)}.",
            same_flavour > 0 and same_rule > 0,
        ),
        Said("So write rule and kind of LFU beside every hit ratio, and ask for them in every paper."),
    )
    title = f"{LRU} by two rules: pinned beside one by one"
    shown = Shown(trace, (OURS[0], THEIRS[0]), title, len(trace.passes()) // 2, measured=lab.recorded(TRACE))
    return Answer(right, why, shown)
