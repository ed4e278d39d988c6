"""Variants of weights: where they are, how they load."""
