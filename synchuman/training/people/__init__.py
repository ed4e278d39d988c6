"""Clothed people made by code: the training data of `mini`, reproducible from seeds."""
