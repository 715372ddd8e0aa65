"""What makes sinks exactly-once."""

from __future__ import annotations

from tools.mutations.mutation import LUA, Mutation

FILE_TESTS = ("tests/unit/sinks/test_sinks_file.py", "tests/unit/sinks/test_sinks_file_sizes.py")
SQLITE_TESTS = ("tests/unit/sinks/test_sinks_sqlite.py",)
FILES = "market_data_pipeline/sinks/file.py"
PARQUET = "market_data_pipeline/sinks/parquet.py"
COMPACTION = "market_data_pipeline/sinks/compaction.py"
REDIS_OUT = "market_data_pipeline/sinks/redis.py"
STAGED = "market_data_pipeline/sinks/staging.py"
SQLITE = "market_data_pipeline/sinks/sqlite.py"


def _sinks() -> list[Mutation]:
    """What makes sinks exactly-once."""
    guard = "excluded.{GENERATION} >= coalesce({_quoted(self.table)}.{GENERATION}, 0)"
    return [
        Mutation("sqlite: version", SQLITE, guard, "1", SQLITE_TESTS),
        Mutation(
            "sqlite: a refused row refuses the step", SQLITE, "if done.rowcount != rows:", "if False:", SQLITE_TESTS
        ),
        Mutation(
            "files: the manifest's renames are repeated",
            FILES,
            'self._staging.publish(state["sealed"])',
            "pass",
            FILE_TESTS,
        ),
        Mutation("files: committed bytes are adopted", FILES, 'self._adopt(state["part"])', "pass", FILE_TESTS),
        Mutation("files: what was not committed is cut", STAGED, "os.truncate(source, size)", "pass", FILE_TESTS),
        Mutation("files: only committed bytes are copied", STAGED, "_Limited(old, size)", "old", FILE_TESTS),
        Mutation(
            "files: size of the committed file", STAGED, "if found is None or found < size:", "if False:", FILE_TESTS
        ),
        Mutation(
            "files: size before the rename",
            STAGED,
            "if source.exists():\n                check_size(source, size)",
            "pass",
            FILE_TESTS,
        ),
        Mutation(
            "files: size of a published file",
            STAGED,
            "if target.exists():\n                    check_size(target, size)",
            "if target.exists():\n                    pass",
            FILE_TESTS,
        ),
        Mutation(
            "files: nothing is deleted before the first commit",
            STAGED,
            "        self._stale = [path for path in",
            '        for path in self.folder.glob(f"{self.stem}-*"):\n            path.unlink()\n'
            "        self._stale = [path for path in",
            FILE_TESTS,
        ),
        Mutation(
            "files: published files that the server forgot", STAGED, "self._stale.append(path)", "pass", FILE_TESTS
        ),
        Mutation(
            "files: a later owner's copy of the committed bytes",
            STAGED,
            "places = [named, *also, *sorted(later, key=lambda path: _epoch(path.name))]",
            "places = [named, *also]",
            FILE_TESTS,
        ),
    ]


def _parquet() -> list[Mutation]:
    tests = ("tests/unit/sinks/test_sinks_parquet.py",)
    merging = ("tests/unit/sinks/test_sinks_compaction.py",)
    return [
        Mutation("parquet: the renames are repeated", PARQUET, 'self._staging.publish(state["sealed"])', "pass", tests),
        Mutation("parquet: committed rows are adopted", PARQUET, "self._adopt(committed)", "pass", tests),
        Mutation(
            "parquet: rows of finished files stay",
            PARQUET,
            "            _retire(path)",
            "            path.unlink()",
            tests,
        ),
        Mutation(
            "parquet: rows that stayed are looked for",
            PARQUET,
            "self._staging.adopt(name, former, size, also)",
            "self._staging.adopt(name, former, size)",
            tests,
        ),
        Mutation("compact: rows are compared", COMPACTION, "if found != wanted:", "if False:", merging),
        Mutation(
            "compact: the manifest",
            COMPACTION,
            "if not (work / _MANIFEST).exists():\n            shutil.rmtree(work)\n",
            "if False:\n            pass\n",
            merging,
        ),
        Mutation(
            "compact: what came meanwhile is kept",
            COMPACTION,
            "inputs.get(path.name) == _mark(path) or",
            "True or",
            merging,
        ),
        Mutation(
            "compact: one at a time",
            COMPACTION,
            "fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)",
            "pass",
            merging,
        ),
    ]


def _redis_output() -> list[Mutation]:
    tests, send, latest = ("tests/unit/sinks/test_sinks_redis.py",), LUA + "sink_send.lua", LUA + "sink_latest.lua"
    return [
        Mutation(
            "redis output: a later opening", send, "if seen[1] and seen[1] > ARGV[1] then", "if false then", tests
        ),
        Mutation(
            "redis output: sent before",
            send,
            "if seen[2] == ARGV[2] and part < tonumber(seen[3]) then",
            "if false then",
            tests,
        ),
        Mutation(
            "redis output: types first", send, "if kind ~= 'none' and kind ~= 'stream' then", "if false then", tests
        ),
        Mutation(
            "redis output: rights first",
            send,
            "if not redis.acl_check_cmd('XADD'",
            "if false and not redis.acl_check_cmd('XADD'",
            tests,
        ),
        Mutation(
            "redis output: a new owner sends",
            REDIS_OUT,
            "                await self._check_generation()\n                await self._send(state)",
            "                await self._check_generation()",
            tests,
        ),
        Mutation("redis latest: order", latest, "if not stored or stored <= order then", "if true then", tests),
    ]


def _guarded() -> list[Mutation]:
    """The circuit breaker before a sink."""
    guarded, tests = "market_data_pipeline/sinks/guarded.py", ("tests/unit/sinks/test_sinks_guarded.py",)
    given_up = "self._circuit.breaker.given_up(ticket)"
    return [
        Mutation(
            "guarded sink: a task that ends gives its trial back",
            guarded,
            "        self._give_up(self._step)\n        await self.sink.close()",
            "        await self.sink.close()",
            tests,
        ),
        Mutation(
            "guarded sink: an open that works is no success",
            guarded,
            f"{given_up}\n\n    async def write",
            "self._circuit.breaker.succeeded(ticket, self._clock.monotonic())\n\n    async def write",
            tests,
        ),
        Mutation(
            "guarded sink: what comes behind a commit takes no trial",
            guarded,
            f"        if ticket is not None:\n            {given_up}\n\n    async def close",
            "\n    async def close",
            tests,
        ),
    ]


GUARDS: tuple[Mutation, ...] = (
    *_sinks(),
    *_parquet(),
    *_redis_output(),
    *_guarded(),
)
