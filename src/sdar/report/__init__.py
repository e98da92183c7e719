"""The report: comparison, figures, answers and pages, from the runs' records."""
