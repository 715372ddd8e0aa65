"""A store, or a coordinator of writes, that says over HTTP how it is."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import orjson
from aiohttp import ClientError, ClientSession, ClientTimeout
from pydantic import SecretStr

from market_data_pipeline.errors import ConfigError, SinkError
from market_data_pipeline.feedback import StoreReading

_ANSWER_SECONDS = 1.0
_LONGEST = 65_536
_OK = 200


class HttpFeedback:
    """Reads JSON at ``url`` with a GET: ``NodeOptions(feedback=HttpFeedback("http://writes:8080/queue"))``.

    ``depth``, ``high``, ``low`` and ``write_seconds``: where in the answer each stands, names joined by dots
    (``"stats.queue.depth"``); ``high`` and ``low`` may also be numbers. Depth and levels are in one unit, whichever it is;
    ``write_seconds`` may be missing in the answer. ``token``: sent as ``Authorization: Bearer``.

    An answer is good with status 200, at most 64 KiB, within a second; redirects are not followed. Whatever else comes, and no
    answer, is a ``SinkError`` (what is no reading, a ``ConfigError``): it says nothing, and the rate stays as it is for half a
    minute. Every question is a connection of its own. Raises ``ConfigError`` for a URL that is not ``http`` or ``https``, or
    that has a user or password in it.
    """

    def __init__(
        self,
        url: str,
        depth: str = "queue_depth",
        high: float | str = "high",
        low: float | str = "low",
        write_seconds: str = "write_seconds",
        token: SecretStr | str | None = None,
    ) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"HttpFeedback: the url is malformed: {error}") from None
        if parts.username is not None or parts.password is not None:
            raise ConfigError("HttpFeedback: no user or password in the url; give token=")
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
            raise ConfigError(f"HttpFeedback: url={url!r} must be http://HOST[:PORT]/PATH or https://...")
        if isinstance(high, int | float) and isinstance(low, int | float):
            StoreReading(0, high, low).checked()
        self.url, self.depth, self.high, self.low, self.write_seconds = url, depth, high, low, write_seconds
        self.token = SecretStr(token) if isinstance(token, str) else token
        self._shown = parts._replace(query="", fragment="").geturl()  # a query may hold a key

    async def reading(self) -> StoreReading:
        """See :class:`~market_data_pipeline.feedback.StoreFeedback`."""
        answer = await self._get()
        depth, high, low = (self._number(answer, where) for where in (self.depth, self.high, self.low))
        write_seconds = 0.0 if _at(answer, self.write_seconds) is None else self._number(answer, self.write_seconds)
        return StoreReading(depth, high, low, write_seconds).checked()

    async def _get(self) -> Any:
        headers = {} if self.token is None else {"Authorization": f"Bearer {self.token.get_secret_value()}"}
        try:
            async with (
                ClientSession(timeout=ClientTimeout(total=_ANSWER_SECONDS)) as session,
                session.get(self.url, headers=headers, allow_redirects=False) as response,
            ):
                if response.status != _OK:
                    raise SinkError(f"{self._shown}: status {response.status}")
                body = bytearray()
                async for part in response.content.iter_any():
                    body += part
                    if len(body) > _LONGEST:
                        raise SinkError(f"{self._shown}: an answer of more than {_LONGEST} bytes")
                return orjson.loads(body)
        except TimeoutError:
            raise SinkError(f"{self._shown}: no answer within {_ANSWER_SECONDS:g} s") from None
        except orjson.JSONDecodeError as error:
            raise SinkError(f"{self._shown}: no JSON ({error})") from None
        except (ClientError, OSError) as error:
            why = str(error) if isinstance(error, OSError) else ""  # the others may quote the whole url
            raise SinkError(f"{self._shown}: {why or type(error).__name__}") from None

    def _number(self, answer: Any, where: float | str) -> float:
        found = _at(answer, where) if isinstance(where, str) else where
        if isinstance(found, bool) or not isinstance(found, int | float):
            raise SinkError(f"{self._shown}: {where!r} in the answer is {found!r:.60}, a number is needed")
        return float(found)


def _at(answer: Any, where: str) -> Any:
    for name in where.split("."):
        answer = answer.get(name) if isinstance(answer, dict) else None
    return answer
