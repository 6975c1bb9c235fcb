"""Commands: `flask --app app.main …`."""

from flask import Flask


def install(app: Flask) -> None:
    """Give `app` its commands."""
