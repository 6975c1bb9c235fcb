"""The HTTP routes. Each checks a request, sends messages over the bus and builds the response."""
