"""TRL's own trainers under this harness, as an outside base line."""
