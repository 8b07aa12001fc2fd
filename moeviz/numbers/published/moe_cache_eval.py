"""shijiuzhang/moe-cache-eval on GitHub (arXiv 2608.07911), paper/v2 at f7bacc2, section 4, table 2:
Qwen3-30B-A3B.

Slots for 40% of each layer's experts, eight requests at a time, so that an event needs the union of their
experts. The table gives misses; the column "event-atomic" is the rule that is called `pinned` here.
"""

from moeviz.numbers.published.publication import publish

publish(
    "moe-cache-eval",
    "arXiv 2608.07911, section 4, table 2",
    "Qwen3-30B-A3B",
    (48, 128, 8),
    "layer",
    "Eight requests at a time, experts of an event needed at once.",
    (51.2,),
    lru=(100 - 19.30,),
    lfu=(100 - 19.14,),
    lfru=(100 - 18.01,),
    belady=(100 - 9.93,),
)
