"""The description of a route, from which the OpenAPI document is made; authentication reads its scope here as well."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, TypeVar

from marshmallow import Schema

View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A query parameter or header of an operation; `schema` is a JSON schema."""

    name: str
    where: str
    description: str
    schema: Mapping[str, Any]
    example: Any
    required: bool = False


@dataclass(frozen=True)
class Operation:
    """A decorator that describes a view: what it does, takes and returns.

    `scope` is what a caller needs, None for a public route. `responses` has the schema of each status, None for a response
    without a body. `media_types` are other media types of a successful response, each with an example, and `headers` are its
    headers. `problems` are codes of the catalogue.
    """

    summary: str
    _: KW_ONLY
    scope: str | None
    responses: Mapping[int, type[Schema] | None]
    description: str = ""
    body: type[Schema] | None = None
    media_types: Mapping[str, str] = field(default_factory=dict)
    problems: Sequence[str] = ()
    parameters: Sequence[Parameter] = ()
    headers: Sequence[str] = ()

    def __call__(self, view: View) -> View:
        """The same view, with this description."""
        view.operation = self  # type: ignore[attr-defined]
        return view
