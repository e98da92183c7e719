"""The `sdar` command: one subcommand per stage, and tools for people."""


def main() -> None:
    """Entry point of the console script."""
    from sdar.cli.app import main as run

    run()
