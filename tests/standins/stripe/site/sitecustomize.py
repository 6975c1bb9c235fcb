"""Keeps localstripe, which runs as a program of its own, from writing its data to a fixed file that all of its processes share."""

import builtins
import os

SHARED_FILE = "/tmp/localstripe.pickle"
_open = builtins.open


def open_private(file, *arguments, **options):
    return _open(os.devnull if file == SHARED_FILE else file, *arguments, **options)


builtins.open = open_private
