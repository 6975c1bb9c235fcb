"""The HTTP client of tests that start servers: making one takes 30 ms of CPU, so they share it.

Every request has a connection of its own, as from many clients: any worker of a server may get it.
"""

import httpx

CLIENT = httpx.Client(timeout=30, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))
