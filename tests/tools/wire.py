"""A pipeline to the server for tests that send very many small commands, and the scripts by which they look at it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hiredis
import redis
from redis.exceptions import OutOfMemoryError

OBSERVE = """#!lua flags=no-writes,allow-oom
local reply, at = {}, 0
local function each(count, ...)
  for _ = 1, tonumber(count) do
    at = at + 1
    local call = {...}
    reply[#reply + 1] = redis.call(call[1], KEYS[at], unpack(call, 2))
  end
end
each(ARGV[1], 'HMGET', 'commit', 'meta', 'ended', 'tried', 'starts', 'place', 'suspect', 'deaths')
each(ARGV[1], 'HGETALL')
each(ARGV[2], 'XRANGE', '-', '+')
each(ARGV[3], 'HGETALL')
each(1, 'SMEMBERS')
each(1, 'XRANGE', '-', '+')
return reply
"""
DUMP = """#!lua flags=no-writes,allow-oom
local reply = {}
for i, key in ipairs(KEYS) do
  reply[i] = redis.call('DUMP', key) or ''
end
return reply
"""
RESTORE = """#!lua
for i, key in ipairs(KEYS) do
  redis.call('DEL', key)
  if ARGV[i] ~= '' then
    redis.call('RESTORE', key, 0, ARGV[i])
  end
end
return 'OK'
"""


class Wire:
    """A pipeline on one connection, without a round trip for each call and with errors as answers."""

    def __init__(self, client: redis.Redis) -> None:
        self._connection = client.connection_pool.get_connection()
        self._packed: list[bytes] = []
        self.shas: dict[str, str] = {}

    def script(self, name: str, text: str) -> None:
        """Load a script under ``name``."""
        self.add("SCRIPT", "LOAD", text)
        self.shas[name] = self.flush()[0].decode()

    def add(self, *command: Any) -> None:
        self._packed.append(hiredis.pack_command(command))

    def call(self, script: str, keys: Sequence[str], args: Sequence[Any]) -> None:
        self.add("EVALSHA", self.shas[script], len(keys), *keys, *args)

    def send(self) -> int:
        """Send what was added; how many answers will come."""
        self._connection.send_packed_command(  # type: ignore[no-untyped-call]
            [b"".join(self._packed)]
        )
        count, self._packed = len(self._packed), []
        return count

    def receive(self, count: int) -> list[Any]:
        """So many answers, in order. Raises an error of the server, except that memory is full."""
        answers = []
        for _ in range(count):
            try:
                answers.append(self._connection.read_response(disable_decoding=True))
            except OutOfMemoryError as error:
                answers.append(error)
        return answers

    def flush(self) -> list[Any]:
        """Both."""
        return self.receive(self.send())
