"""Runs a transformers mixture-of-experts model whose experts live in a slow tier.

The only part of moeviz that imports torch.

Nothing is imported here, so that the app can use `moeviz.engine.client` without loading torch into its own
process.
"""
