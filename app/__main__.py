"""The command `orderflow`, also `python -m app`."""

from app.cli.command import CommandRegistry
from app.main import create_app


def main() -> None:
    """Run the command line. Does not return."""
    CommandRegistry(create_app)(prog_name="orderflow")


if __name__ == "__main__":
    main()
