"""Orders that are placed through each contestant's API before the rounds, and the requests for them."""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tools.bench.contestants import Contestant, Kind
from tools.bench.database import ids_from_now
from tools.bench.wrk import Request

LIST_USERS = 50
LIST_ORDERS = 20
CLIENTS = 8


def order_body(user: str) -> dict[str, str]:
    """Returns the body of a new order whose payment is captured."""
    return {"userId": user, "productId": "1", "productName": "Espresso machine", "totalOrderAmount": "RM 99"}


def preload(contestant: Contestant, kinds: Collection[str] = tuple(Kind)) -> None:
    """Places the orders that later requests read, waits until they are settled, and prepares the requests."""
    if contestant.database is None:
        contestant.requests = hello_requests(contestant.folder)
        return
    since = ids_from_now()
    users = [f"list-{number:07d}" for number in range(LIST_USERS if set(kinds) - {Kind.POST} else 0)]
    ids = place_all(contestant.server.url, [user for user in users for _ in range(LIST_ORDERS)])
    contestant.database.wait_until_settled(since)
    contestant.database.flush()
    contestant.requests = order_requests(contestant.folder, ids, users)


def place_all(url: str, users: list[str]) -> list[str]:
    """Places an order for each of these users; returns the ids."""
    shares = [users[number::CLIENTS] for number in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        placed = pool.map(lambda share: _place(url, share), shares)
        return [one for share in placed for one in share]


def order_requests(folder: Path, ids: list[str], users: list[str]) -> dict[Kind, Request]:
    """Returns the four kinds of requests, for these orders and the lists of these users."""
    return {
        Kind.POST: Request("post.lua", ("/orders",)),
        Kind.ONE: get_requests(folder, "ids", "/orders/one/", ids),
        Kind.STATUS: get_requests(folder, "ids", "/orders/status/", ids),
        Kind.LIST: get_requests(folder, "users", "/orders/", users),
    }


def hello_requests(folder: Path) -> dict[Kind, Request]:
    """Returns the requests that the ceiling answers."""
    return {Kind.POST: Request("post.lua", ("/hello",)), Kind.ONE: get_requests(folder, "ids", "/", ["hello"])}


def get_requests(folder: Path, name: str, before: str, names: list[str]) -> Request:
    """Returns GETs of these names in turn; the list is written to the file `name`."""
    file = folder / f"{name}.txt"
    file.write_text("\n".join(names) + "\n")
    return Request("get.lua", (before, str(file)))


def _place(url: str, users: list[str]) -> list[str]:
    ids = []
    with httpx.Client(base_url=url, timeout=30.0, trust_env=False) as http:
        for user in users:
            answer = http.post("/orders", json=order_body(user))
            answer.raise_for_status()
            ids.append(answer.json()["created"]["id"])
    return ids
