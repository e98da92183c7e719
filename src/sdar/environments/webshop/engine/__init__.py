"""What plays an episode: the catalogue and its search, the pages, the reward."""
