"""The command line: commands, composition of the configuration, one-line errors, the summary of a sweep."""
