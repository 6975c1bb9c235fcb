"""The application of a chaos run: the usual one, with a provider that forgets keys and a way to end its threads."""

from flask import Flask

from app import main
from tools.chaos import forgetful, saboteur


def create_app() -> Flask:
    """What gunicorn serves in a chaos run."""
    saboteur.listen()
    return main.create_app(make_provider=forgetful.make_provider)
