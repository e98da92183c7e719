"""The `sdar` command: one subcommand per stage, and tools for people."""
