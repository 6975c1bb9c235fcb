"""The description of a route, from which the OpenAPI document is made; authentication reads its scope here as well."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, TypeVar

from marshmallow import Schema

View = TypeVar("View", bound=Callable[..., Any])
# What follows the name of a keyed parameter, in the text of an error.
KEY = "[key]"


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A query parameter or header of an operation; `schema` is a JSON schema.

    One that is `keyed` is sent once for each of its keys, as `name[key]=value`; its schema is that of an object.
    """

    name: str
    where: str
    description: str
    schema: Mapping[str, Any]
    example: Any
    required: bool = False
    keyed: bool = False


@dataclass(frozen=True)
class Operation:
    """A decorator that describes a view: what it does, takes and returns.

    `scope` is what a caller needs, None for a public route. `responses` has the schema of each status, None for a response
    without a body. `body` is the schema of the request's body, or several of which one must fit. `media_types` are other media types of a successful response, each with an example, and `headers` are its
    headers. `problems` are codes of the catalogue. A query parameter that is not among `parameters` is refused, unless
    `any_query`: what calls the route is no client of ours and may add some.
    """

    summary: str
    _: KW_ONLY
    scope: str | None
    responses: Mapping[int, type[Schema] | None]
    description: str = ""
    body: type[Schema] | tuple[type[Schema], ...] | None = None
    media_types: Mapping[str, str] = field(default_factory=dict)
    problems: Sequence[str] = ()
    parameters: Sequence[Parameter] = ()
    headers: Sequence[str] = ()
    any_query: bool = False

    @property
    def query_parameters(self) -> list[str]:
        """The names of the query parameters, with `[key]` where one is keyed."""
        return [
            f"{parameter.name}{KEY}" if parameter.keyed else parameter.name
            for parameter in self.parameters
            if parameter.where == "query"
        ]

    def __call__(self, view: View) -> View:
        """The same view, with this description."""
        view.operation = self  # type: ignore[attr-defined]
        return view
