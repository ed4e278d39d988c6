"""The commands of `python -m synchuman`, a module each, and what they share."""
