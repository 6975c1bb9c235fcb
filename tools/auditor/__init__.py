"""The auditor: judges a run by what clients were answered, what the provider booked and what others were told.

It imports nothing of app/ and of the other tools, so that an error there cannot hide itself here.
"""
