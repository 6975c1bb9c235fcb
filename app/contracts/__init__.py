"""Every message between modules, by the module that owns it. Imports nothing of `app`."""
