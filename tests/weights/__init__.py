"""Weights: what is on disk or on a hub arrives unchanged, or an error says why not."""
