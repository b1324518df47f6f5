"""Data: preference pairs, demonstrations, labelled completions, prompts and plain texts, from files and the Hub."""
