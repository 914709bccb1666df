"""The use cases: from a decoded command to an outcome, through cache, engine and method."""
