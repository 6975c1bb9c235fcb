"""Return URLs: the pages of a shop that its customers come back to from the provider's page."""

from marshmallow import ValidationError

from app.addresses import web_origin


class ReturnUrlPolicy:
    """Which return URLs clients may name: those of listed origins. Any other page could pose as the shop's."""

    def __init__(self, origins: frozenset[str]) -> None:
        self._origins = origins

    def check(self, url: str) -> None:
        """Raise ValidationError unless `url` is empty or its origin is listed."""
        try:
            allowed = not url or web_origin(url) in self._origins
        except ValueError as exc:
            raise ValidationError({"returnUrl": [str(exc)]}) from None
        if not allowed:
            raise ValidationError(
                {"returnUrl": ["Its origin is not one that the operator has listed (RETURN_URL_ORIGINS)."]}
            )
