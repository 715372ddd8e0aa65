"""PostgreSQL and TimescaleDB: trades, quotes, bars and gaps, exactly once by key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from market_data_pipeline.durations import Duration
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.extras import extra
from market_data_pipeline.sinks.sql import NAME, SqlStore, Stored
from market_data_pipeline.sinks.sql_schema import TABLES
from market_data_pipeline.sinks.sql_sheets import Sheet

if TYPE_CHECKING:
    from market_data_pipeline.sinks.postgres_session import Session


class PostgresStore(SqlStore):
    """Writes ``Trade``, ``Quote``, ``Bar`` and ``Gap`` records to the tables of that name in ``schema`` at ``url``
    (``postgresql://user:password@host:port/database``, or ``key=value`` words; options of libpq may follow). Extra: postgres.

    Units: times are ``timestamptz`` (microseconds) beside a ``bigint`` of ns, prices and sizes ``numeric`` in the venue's own
    units: a float as the shortest text that reads as the same float, text as sent. A bar's NaN (no trade) and a quote's
    missing side are NULL; so is ``ts_recv`` where it is 0.

    Guarantee: exactly once by key. Trades ``(venue, symbol, trade_id, ts_event)``, quotes ``(venue, symbol, ts_event,
    ts_event_ns, update_id, ts_recv_ns)`` and gaps ``(symbol, first, last, ts_event_ns)``: the first row stays. Bars ``(symbol,
    interval, ts_open)``: a row is replaced by a higher revision only, or, where the same job wrote it, by what a later owner of
    the partition finds (its revisions may be cut otherwise). ``interval`` is the bar's length in ns, or the one given here. A
    trade without an id gets one that begins with ``~``, made of its times, price, size and side; so does a quote without an
    ``update_id``. A step is one transaction, made before the step is committed.

    Retried in place: deadlocks and serialization failures, five times. Anything else the server cannot do now (it is away,
    its disk is full) is a ``SinkError``: the task waits and loads again. A lock that somebody holds is waited for.

    Bad input (NaN or infinity for a price, NUL in text, numbers over 64 bits, other items than records, rows that a
    constraint of the table refuses) goes to the dead letters; the rest of the batch is stored.

    ``create``: make what is missing when a task starts; the tables become hypertables where TimescaleDB is in the database.
    Tables that are there must have the columns and the unique key; further columns are left alone. Each task holds one
    session with temporary tables (no pooling by transaction in between). The password shows nowhere.
    """

    def __init__(
        self,
        url: SecretStr | str,
        schema: str = "public",
        create: bool = True,
        *,
        tables: Sequence[str] = tuple(TABLES),
        prefix: str = "",
        interval: Duration | None = None,
    ) -> None:
        super().__init__(tables, prefix, interval, create)
        self.url = url if isinstance(url, SecretStr) else SecretStr(url)
        self.schema = schema
        if not NAME.fullmatch(schema):
            raise ConfigError(f"schema: {schema!r} is not allowed; letters, digits and _ only, 50 at most")
        self._where = _io().where_of(self.url.get_secret_value(), schema)
        self._session: Session | None = None

    def config(self) -> dict[str, Any]:
        return {name: value for name, value in super().config().items() if name != "url"}

    def destination(self) -> str:
        return f"{self._where}, schema {self.schema}"

    def check(self) -> None:
        _io().check(self._where, self.named(), self.create)

    async def _open(self) -> None:
        self._session = await _io().Session.open(self._where, self.named(), self.create)

    async def _store(self, found: Sequence[Sheet]) -> Stored:
        assert self._session is not None
        return await self._session.store(found, self._ctx.job, self._ctx.generation)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


def _io() -> Any:
    """The module that speaks to the server. Raises ``ConfigError`` where the extra is missing."""
    return extra("market_data_pipeline.sinks.postgres_session", "postgres", "PostgresStore")
