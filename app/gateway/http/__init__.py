"""HTTP in general: bodies, parameters, conditional requests, cursors, money, responses, problems, streams, long polls."""
