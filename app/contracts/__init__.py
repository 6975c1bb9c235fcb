"""Every message between modules, in one file for each module that owns it. Imports nothing of `app` but itself.

All of them are loaded together, so that a process knows each message that it may receive.
"""

from app.contracts import orders, payments

__all__ = ["orders", "payments"]
