"""ccxt's errors as those of a feed, told by their names: no import of ccxt is needed. Pure."""

from __future__ import annotations

from market_data_pipeline.errors import MdpError, SourceError
from market_data_pipeline.sources.provider import FeedDown, SubscriptionRefused

_LEFT_ALONE = 10.0
"""Seconds that a venue is left alone that says "too fast", and not for how long."""

_TOO_FAST = {"RateLimitExceeded", "DDoSProtection"}
_REFUSED = {"BadRequest", "NotSupported", "PermissionDenied", "ArgumentsRequired", "ContractUnavailable"}
_NO_USE = {"AuthenticationError", "RestrictedLocation", "InvalidProxySettings", "ManualInteractionNeeded"}


def _names(error: BaseException) -> set[str]:
    return {cls.__name__ for cls in type(error).__mro__}


def of_venue(error: BaseException) -> bool:
    """Is this the venue's word (or ccxt's on its behalf), not a network's?"""
    return "ExchangeError" in _names(error)


def explained(error: BaseException, what: str, *, asking: bool, retry_after: float = 0.0) -> MdpError:
    """``error`` of ccxt during ``what``. ``asking``: it is the answer to a subscription, so what the venue says is about that.

    Network, timeouts, maintenance and what nobody knows: ``FeedDown``, and left alone for ``retry_after`` (default 10 s) where
    the venue was asked too fast. A wrong key, a forbidden country: ``SourceError``. An unknown symbol, a kind that it does not
    have, no permission, and while ``asking`` all else that the venue says: ``SubscriptionRefused``.
    """
    names = _names(error)
    text = f"{what}: {type(error).__name__}: {error}" if str(error) else f"{what}: {type(error).__name__}"
    if names & _TOO_FAST:
        return FeedDown(text, retry_after or _LEFT_ALONE)
    if names & _REFUSED:
        return SubscriptionRefused(text)
    if names & _NO_USE:
        return SourceError(text)
    if asking and "ExchangeError" in names and "ExchangeClosedByUser" not in names:
        return SubscriptionRefused(text)
    return FeedDown(text, retry_after)
