"""What a route says of itself: the OpenAPI document is made from this and nothing else."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from marshmallow import Schema

View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A query parameter or header that an operation takes; `schema` is a JSON schema."""

    name: str
    where: str
    description: str
    schema: Mapping[str, Any]
    example: Any
    required: bool = False


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What a route does, takes and answers; `scope` is what a caller must have, None where anybody may.

    `notes` are for its description; `also` are other media types of its good answer, each with an example; `sends` are headers of good answers.
    """

    summary: str
    notes: str
    scope: str | None
    body: type[Schema] | None
    answers: Mapping[int, type[Schema] | None]
    also: Mapping[str, str]
    problems: Sequence[str]
    parameters: Sequence[Parameter]
    sends: Sequence[str]


def documented(
    summary: str,
    *,
    scope: str | None,
    notes: str = "",
    body: type[Schema] | None = None,
    answers: Mapping[int, type[Schema] | None],
    also: Mapping[str, str] | None = None,
    problems: Sequence[str] = (),
    parameters: Sequence[Parameter] = (),
    sends: Sequence[str] = (),
) -> Callable[[View], View]:
    """Say of a view what it does, takes and answers; an answer without a body has no schema."""
    operation = Operation(
        summary=summary,
        notes=notes,
        scope=scope,
        body=body,
        answers=answers,
        also=also or {},
        problems=problems,
        parameters=parameters,
        sends=sends,
    )

    def mark(view: View) -> View:
        view.operation = operation  # type: ignore[attr-defined]
        return view

    return mark
