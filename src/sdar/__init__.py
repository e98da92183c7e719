"""sdar: Self-Distilled Agentic Reinforcement Learning (arXiv 2605.15155), reproducible."""

__version__ = "0.1.0"
