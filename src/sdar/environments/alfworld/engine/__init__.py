"""What plays a game: loading, stepping, and pools of worker processes."""
