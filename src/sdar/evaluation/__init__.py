"""Evaluation: panels of tasks are played, scored and summarised with intervals."""
