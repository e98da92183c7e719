"""What plays an episode: questions, the protocol, the scoring of answers."""
