"""Heartbeats from a thread, so that long user code on the event loop does not make a worker look dead."""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import asdict

from redis.exceptions import RedisError

from market_data_pipeline.store.client import Script, connect_blocking
from market_data_pipeline.store.control import Heartbeat
from market_data_pipeline.store.keys import Keys

_BEAT = Script("beat", "allow-oom")  # a full server must not make workers look dead

log = logging.getLogger(__name__)


class HeartbeatThread:
    """Writes ``heartbeat`` every third of ``ttl_ms`` until stopped; also learns the server's ``run_id``.

    ``run_id`` changes when the server restarts or another takes its place: then everything in memory must be read again.
    """

    def __init__(self, url: str, keys: Keys, heartbeat: Heartbeat, ttl_ms: int) -> None:
        self._client = connect_blocking(url)
        self._keys = keys
        self._heartbeat = heartbeat
        self._ttl_ms = ttl_ms
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self.run_id = ""

    def start(self) -> None:
        """Beat once, then go on in the thread. Raises what the first beat raises."""
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        """Stop beating; returns when the thread is over."""
        self._stop.set()
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        away = False
        while not self._stop.wait(self._ttl_ms / 3000):
            try:
                self._beat()
                away = False
            except (RedisError, OSError) as error:
                if not away:
                    log.warning("heartbeat: server away (%s)", error)
                away = True

    def _beat(self) -> None:
        pipe = self._client.pipeline(transaction=False)
        keys = [self._keys.worker(self._heartbeat.worker), self._keys.workers]
        pipe.eval(_BEAT.text, 2, *keys, json.dumps(asdict(self._heartbeat)), self._ttl_ms, self._heartbeat.worker)
        pipe.info("server")
        self.run_id = str(pipe.execute()[1].get("run_id", ""))
