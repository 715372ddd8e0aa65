"""Heartbeats from a thread, so that long user code on the event loop does not make a worker look dead."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace

from redis.exceptions import RedisError

from market_data_pipeline.clock import SYSTEM_CLOCK, Clock
from market_data_pipeline.store.client import Script, connect_blocking
from market_data_pipeline.store.control import Heartbeat, JobInfo
from market_data_pipeline.store.stores import SAYS_NOTHING
from market_data_pipeline.store.trouble import Trouble
from market_data_pipeline.store.url import Address

_LEAST_TIMEOUT = 1.0
_SAID_SECONDS = 1.0
_BEAT = Script("beat", "allow-oom")  # a full server must not make workers look dead

log = logging.getLogger(__name__)


class HeartbeatThread:
    """Writes ``heartbeat`` every third of ``ttl_ms`` until stopped.

    ``run_id`` changes when the server restarts or another takes its place: then everything in memory must be read again.
    ``superseded``: a process that started later uses this worker's name; this one must leave. ``job_gone``: the job was removed
    or replaced; nothing is written for it any more. ``lapses``: how often no heartbeat had got through for ``ttl_ms`` until one
    did again. ``troubles`` and ``stores`` are to be set: what this worker's tasks wait for, and how the stores of its sinks
    are, said with the next heartbeat; it comes within a second where there are ``stores``.
    """

    def __init__(
        self, url: str | Address, job: JobInfo, heartbeat: Heartbeat, ttl_ms: int, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        # a server that hangs must be noticed, and looked for elsewhere, within the lease's time
        self._client = connect_blocking(url, max(_LEAST_TIMEOUT, ttl_ms / 1000))
        self._job = job
        self._heartbeat = heartbeat
        self._ttl_ms = ttl_ms
        self._clock = clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._incarnation = 0
        self._held_until = float("-inf")
        self.run_id = ""
        self.superseded = False
        self.job_gone = False
        self.lapses = 0
        self.troubles: tuple[Trouble, ...] = ()
        self.stores = SAYS_NOTHING

    def start(self) -> None:
        """Beat once, then go on in the thread. Raises what the first beat raises."""
        self.beat()
        self._thread.start()

    def stop(self) -> None:
        """Stop beating; returns when the thread is over."""
        self._stop.set()
        self._thread.join()
        self._client.close()

    def held(self) -> bool:
        """Whether the last heartbeat that got through is younger than ``ttl_ms``: until then nobody takes our place. The
        time counts from before it was sent, so we think it over before the server does."""
        return not self.superseded and not self.job_gone and self._clock.monotonic() < self._held_until

    def _run(self) -> None:
        away = False
        while not (self.superseded or self.job_gone) and not self._stop.wait(self.pause):
            try:
                self.beat()
                away = False
            except (RedisError, OSError) as error:
                if not away:
                    log.warning("heartbeat: server away (%s)", error)
                away = True

    @property
    def pause(self) -> float:
        """Seconds between two heartbeats."""
        return min(self._ttl_ms / 3000, _SAID_SECONDS) if self.stores.readings else self._ttl_ms / 3000

    def beat(self) -> None:
        """One heartbeat, now. Raises what the server or the network says."""
        sent = self._clock.monotonic()
        late = self._incarnation and sent >= self._held_until
        pipe = self._client.pipeline(transaction=False)
        beat, keys = replace(self._heartbeat, troubles=self.troubles, stores=self.stores), self._job.keys
        args: list[str | int] = [beat.to_json(), self._ttl_ms, beat.worker, beat.token, self._incarnation]
        args += [keys.record, self._job.uid]
        pipe.eval(_BEAT.text, 3, keys.worker(beat.worker), keys.workers, keys.incarnations, *args)
        pipe.info("server")
        incarnation, server = pipe.execute()
        self.run_id = str(server.get("run_id", ""))
        number = int(incarnation)
        self.superseded, self.job_gone = number == 0, number < 0
        if number <= 0:
            return
        self._incarnation = number
        self.lapses += bool(late)
        self._held_until = sent + self._ttl_ms / 1000
