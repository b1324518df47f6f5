"""Faster ways to what the reference engine computes: a module a path, each with a `why_not`; `paths.py` lists them."""
