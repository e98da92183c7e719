"""TextWorldExpress: eight text games, the environment that docs/environments.md builds."""
