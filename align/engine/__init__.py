"""What computes with a model: log-probabilities, values, scores and samples."""
