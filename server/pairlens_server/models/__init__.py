"""From an architecture, a checkpoint and a preprocessing to a loaded model."""
