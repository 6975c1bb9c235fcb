"""What a receiver answers: read by a parser in C, which is told of every byte, and limited here."""

import httptools

MAX_READ = 64 * 1024
MAX_KEPT = 1024
# More digits than that are no number of seconds.
MAX_DIGITS = 9
VERSIONS = ("1.0", "1.1")
FRAMING = (b"content-length", b"transfer-encoding")


class MalformedResponse(Exception):
    """The answer is not HTTP, ended early, or has a head of more than MAX_READ bytes."""


class ReceivedResponse:
    """An answer as far as it has come. `status` is 0 until its head has ended; interim answers (1xx) are skipped.

    `body` has the first MAX_KEPT bytes. `retry_after` is in seconds, 0 where the head has none: a date there is ignored, since it
    needs the receiver's clock.
    """

    def __init__(self) -> None:
        self.status = 0
        self.retry_after = 0.0
        self.body = b""
        self.complete = False
        self._read = 0
        self._framed = False
        self._stays_open = False
        self._surplus = False
        self._parser = httptools.HttpResponseParser(self)
        # What RFC 9112 lets a client accept. Nothing that follows an answer is used, so these are safe here.
        self._parser.set_dangerous_leniencies(lenient_headers=True, lenient_optional_cr_before_lf=True)

    @property
    def wants_more(self) -> bool:
        """Whether to read on: it has not ended, and not reached MAX_READ bytes."""
        return not self.complete and self._read < MAX_READ

    @property
    def reusable(self) -> bool:
        """Whether its connection can take another request: it has ended, the receiver does not close and has sent no more than that."""
        return self.complete and self._stays_open and not self._surplus

    def feed(self, data: bytes) -> None:
        """Take what came next; no bytes are the end of the connection. Raises MalformedResponse."""
        self._read += len(data)
        if not data:
            # Without a length the end of the connection ends it; with one it was to be longer.
            if self._framed or not self.status:
                raise MalformedResponse
            self.complete = True
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            # Behind an answer that has ended anything may come: it is not used.
            if not self.complete:
                raise MalformedResponse from exc
        if not self.status and self._read >= MAX_READ:
            raise MalformedResponse

    def on_message_begin(self) -> None:
        """Called by the parser before the head of each answer."""
        self._surplus = self.complete
        if not self.complete:
            self._framed, self.retry_after = False, 0.0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser with each member of a head, and of a trailer."""
        if self.status:
            return
        name = name.lower()
        # The parser leaves spaces behind a value.
        digits = value.strip()
        if name in FRAMING:
            self._framed = True
        elif name == b"retry-after" and digits.isdigit() and not self.retry_after:
            self.retry_after = float(digits[:MAX_DIGITS])

    def on_headers_complete(self) -> None:
        """Called by the parser after the head of each answer. Raises MalformedResponse."""
        status = self._parser.get_status_code()
        if self._parser.get_http_version() not in VERSIONS or status < 100:
            raise MalformedResponse
        if status >= 200 and not self.status:
            self.status, self._stays_open = status, self._parser.should_keep_alive()

    def on_body(self, data: bytes) -> None:
        """Called by the parser with what has come of a body."""
        if not self.complete and len(self.body) < MAX_KEPT:
            self.body += data[: MAX_KEPT - len(self.body)]

    def on_message_complete(self) -> None:
        """Called by the parser at the end of each answer."""
        self.complete = bool(self.status)
