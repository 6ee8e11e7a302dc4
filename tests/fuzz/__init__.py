"""Damaged files and wrong command lines by the hundred: ``python -m tests.fuzz --seed 0``."""
