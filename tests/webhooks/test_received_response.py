"""Answers of receivers: well-formed, malformed, in pieces, with more behind them."""

import pytest

from app.webhooks.received_response import MAX_KEPT, MAX_READ, MalformedResponse, ReceivedResponse

OK = b"HTTP/1.1 200 OK\r\n"


def received(*parts: bytes) -> ReceivedResponse:
    """The answer of which these parts have come; an empty one is the end of the connection."""
    response = ReceivedResponse()
    for part in parts:
        response.feed(part)
    return response


# Status, body, whether it has ended, whether the connection can be used again.
WELL_FORMED = {
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"", True, True)),
    "no content, with a length": (b"HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n", (204, b"", True, True)),
    "a length": (OK + b"Content-Length: 2\r\n\r\nab", (200, b"ab", True, True)),
    "chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n2;x\r\nab\r\n0\r\nA: b\r\n\r\n", (200, b"ab", True, True)),
    "half of a body": (OK + b"Content-Length: 4\r\n\r\nab", (200, b"ab", False, False)),
    "no length": (OK + b"\r\nab", (200, b"ab", False, False)),
    "closing": (OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nab", (200, b"ab", True, False)),
    "an older version": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nab", (200, b"ab", True, False)),
    "no reason": (b"HTTP/1.1 500\r\nContent-Length: 0\r\n\r\n", (500, b"", True, True)),
    "interim answers before": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n",
        (200, b"", True, True),
    ),
    "lines that end with LF": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nab", (200, b"ab", True, True)),
    "a folded header": (OK + b"X-A: a\r\n b\r\nContent-Length: 2\r\n\r\nab", (200, b"ab", True, True)),
    "another answer behind it": (
        b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 410 Gone\r\nRetry-After: 9\r\nContent-Length: 1\r\n\r\na",
        (204, b"", True, False),
    ),
    "half of another answer behind it": (b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 410", (204, b"", True, False)),
    "no HTTP behind it": (b"HTTP/1.1 204 No Content\r\n\r\nGET / HTTP/1.1\r\n\r\n", (204, b"", True, False)),
    "more behind a closing one": (
        OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nabcd",
        (200, b"ab", True, False),
    ),
}


@pytest.mark.parametrize(("text", "expected"), WELL_FORMED.values(), ids=WELL_FORMED.keys())
def test_an_answer_means_the_same_in_one_piece_and_in_many(text, expected):
    for parts in ([text], [text[at : at + 1] for at in range(len(text))]):
        response = received(*parts)
        assert (response.status, response.body, response.complete, response.reusable) == expected
        assert response.retry_after == 0


MALFORMED = {
    "the end at once": (b"",),
    "the end in the head": (OK, b""),
    "the end before the length": (OK + b"Content-Length: 4\r\n\r\nab", b""),
    "the end between chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", b""),
    "a request": (b"POST / HTTP/1.1\r\n\r\n",),
    "switching protocols": (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",),
    "switching protocols without saying to which": (b"HTTP/1.1 101 Switching\r\n\r\n", b""),
    "a later version": (b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",),
    "no status": (b"HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n",),
    "a status of two digits": (b"HTTP/1.1 99 OK\r\n\r\n",),
    "two lengths": (OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",),
    "a length and chunks": (OK + b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",),
    "a negative length": (OK + b"Content-Length: -1\r\n\r\n",),
    "a length beyond all numbers": (OK + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n",),
    "a chunk beyond all numbers": (OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 30 + b"\r\n",),
    "a chunk without a length": (OK + b"Transfer-Encoding: chunked\r\n\r\n\r\nab",),
    "an endless head": (OK + b"X-A: ", *[b"a" * 1024] * (MAX_READ // 1024)),
    "endless interim answers": (*[b"HTTP/1.1 100 Continue\r\n\r\n" * 100] * 30,),
}


@pytest.mark.parametrize("parts", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_no_answer_is_refused(parts):
    with pytest.raises(MalformedResponse):
        received(*parts)


def test_the_end_of_the_connection_ends_an_answer_without_a_length():
    response = received(OK + b"\r\nab", b"cd", b"")
    assert (response.complete, response.body, response.reusable) == (True, b"abcd", False)


def test_of_a_body_a_part_is_kept_and_no_more_read_than_the_limit():
    response = received(OK + b"\r\n")
    pieces = 0
    while response.wants_more:
        response.feed(b"a" * 1000)
        pieces += 1
    assert (len(response.body), pieces) == (MAX_KEPT, MAX_READ // 1000 + 1)
    assert not response.reusable


def test_what_is_no_body_counts_towards_the_limit_as_well():
    response = received(OK + b"Transfer-Encoding: chunked\r\n\r\n1;")
    for _ in range(MAX_READ // 1024):
        response.feed(b"a" * 1024)
    assert not response.wants_more


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"HTTP/1.1 429 Wait\r\nretry-AFTER: 17\r\nContent-Length: 0\r\n\r\n", 17),
        (b"HTTP/1.1 429 Wait\r\nRetry-After: \t17 \t\r\nContent-Length: 0\r\n\r\n", 17),
        (b"HTTP/1.1 103 Early\r\nRetry-After: 17\r\n\r\nHTTP/1.1 429 Wait\r\nContent-Length: 0\r\n\r\n", 0),
        (b"HTTP/1.1 429 Wait\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nRetry-After: 17\r\n\r\n", 0),
    ],
    ids=["in the head", "between spaces", "of an interim answer", "behind the body"],
)
def test_the_time_to_wait_is_that_of_the_head(text, seconds):
    assert received(text).retry_after == seconds
