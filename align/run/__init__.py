"""The composition root: from a checked configuration to a run's folder, phase by phase."""
