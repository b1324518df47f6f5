"""Models: loading, quantization, the chat chat, and the roles that a run's models play."""
