"""Hit ratios over slots that others published, to lay under one's own: numbers as read in their sources,
none of ours.

A publication is a file in this folder; its docstring says where its numbers stand and how they were made.
Knows no trace and no figure.

    published()[0].shares           # of all experts that have a slot
    of_model("Qwen/Qwen3-30B-A3B")
"""

from moeviz.numbers.published.publication import Published, of_model, publish, published

__all__ = ["Published", "of_model", "publish", "published"]
