"""Every message between modules, in one file for each module that owns it. Imports nothing else of `app`.

All files are imported together, so that a process can decode every message that it may receive.
"""

from app.contracts import orders, payments

__all__ = ["orders", "payments"]
