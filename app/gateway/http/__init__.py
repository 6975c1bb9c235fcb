"""HTTP without orders: bodies, query parameters, conditional requests, cursors, problems, streams."""
