"""Models: loading, quantization, the chat codec, and the roles that a run's models play."""
