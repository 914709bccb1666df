"""Mixed load for minutes or hours: `python -m tests.soak --minutes 60`."""
