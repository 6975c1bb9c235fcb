"""The HTTP routes: each checks a request, asks the bus and shapes the response."""
