"""The `sdar` command: one subcommand per stage, and tools for people."""

import sys


def main() -> None:
    """Entry point of the console script."""
    try:
        from sdar.cli.app import main as run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "sdar":
            raise
        print(
            f"sdar: {error.name} is not installed: `pip install -e .` in the repository brings "
            "what every command needs",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    run()
