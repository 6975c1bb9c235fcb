"""Orderflow: orders and their payments. Start reading at `main.create_app`, then `contracts`."""

__version__ = "0.1.0"
