"""Engines: what turns prompts into sampled responses."""
