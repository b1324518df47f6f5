"""The one training loop: minibatches, optimizer, records, evaluations, checkpoints, resume."""
