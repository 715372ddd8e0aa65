"""SessionBuckets against a plain loop over exchange_calendars' own schedule, and against polars on whole days."""

from __future__ import annotations

import copy
import json
import sys
from functools import cache
from typing import Any

import exchange_calendars
import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_pipeline.component import describe
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import END, NO_MARK, Frame, to_rows
from market_data_pipeline.operators import calendars
from market_data_pipeline.operators.bars import TumblingBars
from market_data_pipeline.operators.base import OperatorContext
from market_data_pipeline.operators.buckets import OUTSIDE, Buckets
from market_data_pipeline.operators.calendars import SessionBuckets
from market_data_pipeline.records import Bar, Trade

SECOND = 10**9
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

pytestmark = pytest.mark.filterwarnings("ignore:::exchange_calendars", "ignore::pandas.errors.Pandas4Warning")

WEEKS = {
    "XNYS": ["2023-03-08 2023-03-16", "2023-11-01 2023-11-08", "2023-11-20 2023-11-29", "1987-10-15 1987-10-22"],
    "XLON": ["2023-03-22 2023-03-30", "2023-10-26 2023-11-01", "2023-12-20 2024-01-04"],
    "XHKG": ["2023-12-20 2024-01-04", "2024-02-07 2024-02-16"],
    "XTKS": ["2023-12-27 2024-01-06", "2024-11-01 2024-11-08"],
    "CMES": ["2023-03-08 2023-03-16", "2023-11-20 2023-11-29", "2023-12-21 2024-01-04"],
    "24/7": ["2023-02-27 2023-03-02", "1969-12-30 1970-01-02"],
}
CASES = [(calendar, week) for calendar, weeks in WEEKS.items() for week in weeks]


def at(text: str, zone: str = "UTC") -> int:
    return int(pd.Timestamp(text, tz=zone).value)


def starts(buckets: Buckets, *numbers: int) -> list[int]:
    return buckets.starts(np.array(numbers, np.int64)).tolist()


def ends(buckets: Buckets, *numbers: int) -> list[int]:
    return buckets.ends(np.array(numbers, np.int64)).tolist()


@cache
def schedule(calendar: str, week: str) -> list[tuple[int, list[tuple[int, int]]]]:
    """Days since 1970, and the parts of the session of that day."""
    first, last = week.split()
    made = exchange_calendars.get_calendar(calendar, start=first, end=last)
    sessions = []
    for label, row in made.schedule.iterrows():
        edges = [row.open, row.close] if row.isna().any() else [row.open, row.break_start, row.break_end, row.close]
        values = [edge.value for edge in edges]
        sessions.append((label.value // DAY, list(zip(values[::2], values[1::2], strict=True))))
    return sessions


class Plain:
    """All buckets of a few sessions as a list of (number, start, end) and where times belong, as (start, end, number)."""

    def __init__(self, sessions: list[tuple[int, list[tuple[int, int]]]], step: int | None, grace: int = 0) -> None:
        opens = [opens for _, parts in sessions for opens, _ in parts] + [2**62]
        self.buckets: list[tuple[int, int, int]] = []
        self.places: list[tuple[int, int, int]] = []
        for day, parts in sessions:
            place = 0
            for start, close in parts:
                until = min(close + grace, opens[opens.index(start) + 1])
                begin = start
                while step is not None and begin < close:
                    end = until if begin + step >= close else begin + step
                    self.buckets.append((day * 2**27 + place, begin, end))
                    place, begin = place + 1, begin + step
                if step is None:
                    self.places.append((start, until, day * 2**27))
            if step is None:
                self.buckets.append((day * 2**27, parts[0][0], until))
        if step is not None:
            self.places = [(start, end, number) for number, start, end in self.buckets]

    def index(self, ts: int) -> int:
        return next((number for start, end, number in self.places if start <= ts < end), OUTSIDE)

    def first_open(self, watermark: int) -> int:
        return next(number for number, _, end in self.buckets if end > watermark)


STEPS = {"1m": MINUTE, "7m": 7 * MINUTE, "1h": HOUR, "5h": 5 * HOUR, "session": None, "1d": None}


@pytest.mark.parametrize(("calendar", "week"), CASES)
@pytest.mark.parametrize("interval", ["7m", "1h", "5h", "session"])
@pytest.mark.parametrize("grace", [0, 10 * SECOND, 20 * HOUR])
def test_buckets_are_those_of_a_plain_loop_over_the_schedule(
    calendar: str, week: str, interval: str, grace: int
) -> None:
    buckets = SessionBuckets(calendar, interval, grace)
    sessions = schedule(calendar, week)
    plain = Plain(sessions, STEPS[interval], grace)
    # how far the last session's grace goes depends on the session behind it
    plain.buckets = [bucket for bucket in plain.buckets if bucket[0] < sessions[-1][0] * 2**27]
    number = buckets.first_open(plain.buckets[0][1])
    walked = []
    for _ in plain.buckets:
        walked.append((number, *starts(buckets, number), *ends(buckets, number)))
        number = buckets.after(number)
    assert walked == plain.buckets
    numbers, opens, closes = map(list, zip(*plain.buckets, strict=True))
    assert (starts(buckets, *numbers), ends(buckets, *numbers)) == (opens, closes)
    edges = [edge + d for _, start, end in plain.buckets for edge in (start, end) for d in (-1, 0, 1)]
    known = [ts for ts in edges if opens[0] <= ts < closes[-1]]
    assert buckets.indices(np.array(known, np.int64)).tolist() == [plain.index(ts) for ts in known]
    assert [buckets.first_open(ts) for ts in known] == [plain.first_open(ts) for ts in known]


@given(
    st.sampled_from(CASES),
    st.sampled_from(["1m", "1h", "session"]),
    st.lists(st.floats(0, 1), min_size=1, max_size=50),
    st.sampled_from([0, 5 * SECOND]),
)
@settings(derandomize=True, max_examples=150, deadline=None)
def test_times_anywhere_in_any_order(case: tuple[str, str], interval: str, shares: list[float], grace: int) -> None:
    sessions = schedule(*case)
    first, last = sessions[0][1][0][0], sessions[-1][1][-1][1]
    times = [first + int(share * (last - first - 1)) for share in shares]
    buckets, plain = SessionBuckets(case[0], interval, grace), Plain(sessions, STEPS[interval], grace)
    assert buckets.indices(np.array(times, np.int64)).tolist() == [plain.index(ts) for ts in times]
    assert [buckets.first_open(ts) for ts in times] == [plain.first_open(ts) for ts in times]


def new_york(text: str) -> int:
    return at(text, "America/New_York")


def opening_times(buckets: SessionBuckets, first: int, until: int, zone: str) -> list[str]:
    number, found = buckets.first_open(first), []
    while starts(buckets, number)[0] < until:
        opens = pd.Timestamp(starts(buckets, number)[0], tz="UTC").tz_convert(zone)
        closes = pd.Timestamp(ends(buckets, number)[0], tz="UTC").tz_convert(zone)
        found.append(f"{opens:%a %H:%M}-{closes:%H:%M}")
        number = buckets.after(number)
    return found


def test_the_examples_of_the_module() -> None:
    black_friday = new_york("2023-11-24"), new_york("2023-11-25"), "America/New_York"
    assert opening_times(SessionBuckets("XNYS", "1h"), *black_friday) == [
        "Fri 09:30-10:30", "Fri 10:30-11:30", "Fri 11:30-12:30", "Fri 12:30-13:00",
    ]  # fmt: skip
    usual = opening_times(
        SessionBuckets("XNYS", "1h"), new_york("2023-11-27"), new_york("2023-11-28"), "America/New_York"
    )
    assert (len(usual), usual[0], usual[-1]) == (7, "Mon 09:30-10:30", "Mon 15:30-16:00")
    zone = "Asia/Hong_Kong"
    monday = at("2023-11-27", zone), at("2023-11-28", zone), zone
    assert opening_times(SessionBuckets("XHKG", "1h"), *monday) == [
        "Mon 09:30-10:30", "Mon 10:30-11:30", "Mon 11:30-12:00", "Mon 13:00-14:00", "Mon 14:00-15:00", "Mon 15:00-16:00",
    ]  # fmt: skip
    session = SessionBuckets("XHKG", "session")
    assert opening_times(session, *monday) == ["Mon 09:30-16:00"]
    noon = at("2023-11-27 12:30", zone)
    assert session.indices(np.array([noon - HOUR, noon, noon + HOUR])).tolist() == [
        session.first_open(noon), OUTSIDE, session.first_open(noon),
    ]  # fmt: skip
    futures = SessionBuckets("CMES", "1d")
    zone = "America/Chicago"
    assert opening_times(futures, at("2023-11-27 12:00", zone), at("2023-11-28 12:00", zone), zone) == [
        "Sun 17:00-17:00", "Mon 17:00-17:00",
    ]  # fmt: skip
    assert ends(futures, futures.first_open(at("2023-11-24 10:00", zone))) == [at("2023-11-24 12:00", zone)]


def test_opens_move_in_utc_with_daylight_saving_time() -> None:
    buckets = SessionBuckets("XNYS", "30m")
    for days, hours in ((("2023-03-10", "2023-03-13"), (14.5, 13.5)), (("2023-11-03", "2023-11-06"), (13.5, 14.5))):
        for day, hour in zip(days, hours, strict=True):
            assert starts(buckets, buckets.first_open(at(day))) == [at(day) + int(hour * HOUR)]
    friday_close = buckets.first_open(new_york("2023-03-10 15:45"))
    assert starts(buckets, buckets.after(friday_close)) == [new_york("2023-03-13 09:30")]


def test_the_close_belongs_to_the_bucket_only_with_after_close() -> None:
    close = new_york("2023-11-27 16:00")
    times = np.array([close - 1, close, close + 10 * SECOND - 1, close + 10 * SECOND, close + HOUR, close - 7 * HOUR])
    plain, grace = SessionBuckets("XNYS", "1m"), SessionBuckets("XNYS", "1m", after_close="10s")
    last = plain.first_open(close - 1)
    assert plain.indices(times).tolist() == [last, *[OUTSIDE] * 5]
    assert grace.indices(times).tolist() == [last, last, last, *[OUTSIDE] * 3]
    assert (ends(plain, last), ends(grace, last)) == ([close], [close + 10 * SECOND])
    assert (starts(plain, last), starts(grace, last)) == ([close - MINUTE], [close - MINUTE])
    assert (plain.first_open(close), grace.first_open(close)) == (plain.after(last), last)
    assert grace.first_open(close + 10 * SECOND) == plain.after(last)


def test_a_week_of_trades_equals_polars() -> None:
    rng = np.random.default_rng(3)
    sessions = schedule("XNYS", "2023-11-20 2023-11-29")
    ts = rng.integers(sessions[0][1][0][0], sessions[-1][1][-1][1], 20_000)
    size = rng.integers(1, 100, len(ts))
    buckets = SessionBuckets("XNYS", "15m")
    number = buckets.indices(ts)
    inside = number != OUTSIDE
    got: dict[int, int] = {}
    for start, volume in zip(starts(buckets, *number[inside]), size[inside].tolist(), strict=True):
        got[start] = got.get(start, 0) + volume
    trades = pl.DataFrame({"ts": ts, "size": size}).with_columns(pl.from_epoch("ts", "ns").alias("time")).sort("time")
    expected: dict[int, int] = {}
    for _, ((opens, closes),) in sessions:
        day = trades.filter((pl.col("ts") >= opens) & (pl.col("ts") < closes))
        windows = day.group_by_dynamic("time", every="15m").agg(pl.col("size").sum())
        expected |= dict(windows.select(pl.col("time").dt.epoch("ns"), "size").iter_rows())
    assert 0 < (~inside).sum() < len(ts)
    assert got == expected


@pytest.mark.parametrize("restart", [False, True])
def test_empty_bars_are_made_for_buckets_that_exist(restart: bool) -> None:
    template = TumblingBars(SessionBuckets("XNYS", "1h"), empty="carry")
    operator, state, ctx = template.fresh(), dict[str, bytes](), OperatorContext("bars")
    bars: list[Bar] = []
    operator.open(ctx)
    times = ["2023-11-24 09:10", "2023-11-24 11:45", "2023-11-24 13:00", "2023-11-25 12:00", "2023-11-27 10:31"]
    for number, text in enumerate(times):
        ts = new_york(text)
        frames = [*operator.process(Frame([Trade("A", ts, 0, float(number), 1.0)])), *operator.advance(ts)]
        bars += [bar for frame in frames for bar in to_rows(frame.items)]
        for key, blob in operator.snapshot().items():
            if blob is None:
                state.pop(key, None)
            else:
                state[key] = blob
        if restart:
            operator = template.fresh()
            operator.open(ctx)
            operator.restore(state, ts)
    bars += [bar for frame in operator.advance(END) for bar in to_rows(frame.items)]
    found = [(pd.Timestamp(b.ts_open, tz="UTC").tz_convert("America/New_York"), b.close, b.volume) for b in bars]
    assert [(f"{opens:%a %H:%M}", close, volume) for opens, close, volume in found] == [
        ("Fri 11:30", 1, 1), ("Fri 12:30", 1, 0), ("Mon 09:30", 1, 0), ("Mon 10:30", 4, 1),
    ]  # fmt: skip
    assert ctx.counts["outside"] == 3


def test_numbers_are_the_sessions_own() -> None:
    black_friday = 19_685  # days since 1970
    buckets = SessionBuckets("XNYS", "1h")
    assert buckets.first_open(new_york("2023-11-24 12:45")) == black_friday * 2**27 + 3
    assert buckets.after(black_friday * 2**27 + 3) == (black_friday + 3) * 2**27
    assert SessionBuckets("24/7", "1ms").first_open(-1) == -(2**27) + 86_400_000 - 1
    first, last = SessionBuckets("24/7", "1ms").known
    numbers = SessionBuckets("24/7", "1ms").indices(np.array([first, last - 1]))
    assert np.abs(numbers).max() < 2**43


def test_beyond_what_is_known_there_is_nothing() -> None:
    buckets = SessionBuckets("XSHG", "1h")
    first, last = buckets.known
    oldest = exchange_calendars.get_calendar("XSHG", start="1990-12-03", end="1991-01-31")
    assert first == oldest.schedule.open.iloc[0].value
    times = np.array([NO_MARK, first - DAY, last, last + 400 * DAY, END])
    assert buckets.indices(times).tolist() == [OUTSIDE] * 5
    assert buckets.first_open(NO_MARK) == buckets.first_open(first) == first // DAY * 2**27
    end = buckets.first_open(END)
    assert end == buckets.first_open(last) == buckets.after(buckets.first_open(last - 1)) == buckets.after(end)
    assert buckets.first_open(last - 1) < end < 2**43
    assert buckets.indices(np.array([], np.int64)).tolist() == []


def test_an_instance_is_its_arguments() -> None:
    buckets = SessionBuckets("NASDAQ", "5m", "10s")
    expected = {"calendar": "NASDAQ", "interval": 5 * MINUTE, "after_close": 10 * SECOND}
    plain = describe(buckets)
    assert plain.pop("type").endswith("SessionBuckets")
    assert json.loads(json.dumps(plain)) == expected
    assert copy.deepcopy(buckets) == buckets
    assert vars(buckets) == expected
    assert SessionBuckets("XNYS", "session") == SessionBuckets("XNYS", "1d")
    other = SessionBuckets("XNYS", "5m", "10s")
    now = np.array([new_york("2023-11-27 10:01")])
    assert buckets.indices(now).tolist() == other.indices(now).tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("XNYZ", "1h"), r"calendar: 'XNYZ' is not known to exchange_calendars; did you mean '\w+'\?"),
        (("xnys", "1h"), "did you mean 'XNYS'?"),
        (("nowhere at all", "1h"), "one of: 24/5, 24/7, AIXK"),
        (("XNYS", "25h"), "interval: '25h' must be from 1ms to 1d"),
        (("XNYS", "999us"), "interval: '999us' must be from 1ms"),
        (("XNYS", "0s"), "interval: '0s' must be greater than zero"),
        (("XNYS", "sessions"), "interval: 'sessions' is not a duration"),
        (("XNYS", "1h", -1), "after_close: -1 must be from 0 to 1d"),
    ],
)
def test_wrong_arguments_are_named(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SessionBuckets(*arguments)


def test_a_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    calendars._sessions.cache_clear()
    monkeypatch.setitem(sys.modules, "exchange_calendars", None)
    with pytest.raises(ConfigError, match=r"pip install 'market-data-pipeline\[calendars\]'") as caught:
        SessionBuckets("XNYS", "1h")
    assert "\n" not in str(caught.value)


def test_a_calendar_that_cannot_be_made_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise NotImplementedError("implemented by subclasses")

    calendars._sessions.cache_clear()
    monkeypatch.setattr(exchange_calendars, "get_calendar", broken)
    with pytest.raises(ConfigError, match=r"'XBEL' of exchange_calendars [\d.]+ cannot be made: NotImplementedError"):
        SessionBuckets("XBEL", "1h")


def test_plain_knows_its_places() -> None:
    plain = Plain([(0, [(0, 25), (30, 40)])], 10)
    assert plain.buckets == [(0, 0, 10), (1, 10, 20), (2, 20, 25), (3, 30, 40)]
    assert [plain.index(ts) for ts in (-1, 0, 24, 25, 39, 40)] == [OUTSIDE, 0, 2, OUTSIDE, 3, OUTSIDE]
