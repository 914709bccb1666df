"""Speed claims, each as a ratio against a named baseline in one interleaved run."""
