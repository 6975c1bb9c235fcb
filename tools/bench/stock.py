"""What is stored before the rounds: orders placed through each contestant's own API, and the requests for them."""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tools.bench.base import ids_from_now
from tools.bench.contestants import Contestant, Kind
from tools.bench.wrk import Request

LIST_USERS = 50
LIST_ORDERS = 20
CLIENTS = 8


def order_of(user: str) -> dict[str, str]:
    """The body of a new order that will be captured."""
    return {"userId": user, "productId": "1", "productName": "Espresso machine", "totalOrderAmount": "RM 99"}


def stock(contestant: Contestant, kinds: Collection[str] = tuple(Kind)) -> None:
    """Place the orders to ask for, wait until they are settled, and note the requests of these kinds."""
    if contestant.base is None:
        contestant.requests = hello_requests(contestant.folder)
        return
    since = ids_from_now()
    users = [f"list-{number:07d}" for number in range(LIST_USERS if set(kinds) - {Kind.POST} else 0)]
    ids = place_all(contestant.server.url, [user for user in users for _ in range(LIST_ORDERS)])
    contestant.base.drained(since)
    contestant.base.flush()
    contestant.requests = order_requests(contestant.folder, ids, users)


def place_all(url: str, users: list[str]) -> list[str]:
    """Place an order for each of these; their ids."""
    shares = [users[number::CLIENTS] for number in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        placed = pool.map(lambda share: _place(url, share), shares)
        return [one for share in placed for one in share]


def order_requests(folder: Path, ids: list[str], users: list[str]) -> dict[Kind, Request]:
    """The four kinds of requests, about these orders and these users' lists."""
    return {
        Kind.POST: Request("post.lua", ("/orders",)),
        Kind.ONE: asking(folder, "ids", "/orders/one/", ids),
        Kind.STATUS: asking(folder, "ids", "/orders/status/", ids),
        Kind.LIST: asking(folder, "users", "/orders/", users),
    }


def hello_requests(folder: Path) -> dict[Kind, Request]:
    """What the ceiling can be asked."""
    return {Kind.POST: Request("post.lua", ("/hello",)), Kind.ONE: asking(folder, "ids", "/", ["hello"])}


def asking(folder: Path, name: str, before: str, names: list[str]) -> Request:
    """GETs of these names in turn; the list lies in a file `name`."""
    file = folder / f"{name}.txt"
    file.write_text("\n".join(names) + "\n")
    return Request("get.lua", (before, str(file)))


def _place(url: str, users: list[str]) -> list[str]:
    ids = []
    with httpx.Client(base_url=url, timeout=30.0, trust_env=False) as http:
        for user in users:
            answer = http.post("/orders", json=order_of(user))
            answer.raise_for_status()
            ids.append(answer.json()["created"]["id"])
    return ids
