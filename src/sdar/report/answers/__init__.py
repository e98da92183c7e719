"""Four questions of an experiment and their answers, from the runs' records."""
