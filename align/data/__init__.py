"""Data: preference pairs, prompts and plain texts, from files, folders and the Hub."""
