"""What stands between the shell and a run: help, one-line errors, the summary of a sweep."""
