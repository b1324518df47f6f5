"""Faster ways to what the reference engine computes, a file a way."""
