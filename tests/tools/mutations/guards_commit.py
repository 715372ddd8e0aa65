"""What commits and loads check, and what a server must be."""

from __future__ import annotations

from tools.mutations.mutation import COMMIT_TESTS, GUARD_TESTS, LUA, STORE, Mutation

ATTEMPT_TESTS = (*GUARD_TESTS, STORE + "test_store_attempts.py")
REPLICA_TESTS = (STORE + "test_store_attempts.py", STORE + "test_store_replicas.py")
RIGHTS_TESTS = (STORE + "test_store_rights_commit.py",)
CODEC_TESTS = ("tests/unit/test_codec.py",)
PACKING_TESTS = ("tests/unit/test_packing.py",)
SCHEDULES = ("tests/contract/test_protocol_schedules.py::test_the_script_does_what_the_model_does[0]",)
COMMIT = LUA + "commit.lua"
ATTEMPT = LUA + "attempt.lua"
STORE_PY = "market_data_pipeline/store/commit.py"
ARGUMENTS = "market_data_pipeline/store/commit_args.py"
CODEC = "market_data_pipeline/codec.py"
PACKING = "market_data_pipeline/packing.py"


def _commit() -> list[Mutation]:
    """The checks of the commit, in their order, and what it writes."""
    both = COMMIT_TESTS + SCHEDULES
    first = "#redis.call('XRANGE', key, '-', '(' .. ARGV[a], 'COUNT', 1) > 0\n    or "
    last = "or #redis.call('XRANGE', key, ARGV[a + 1], ARGV[a + 1], 'COUNT', 1) == 0"
    entries = "redis.call('XLEN', stream) + math.max(frames, tonumber(ARGV[a + 3])) > tonumber(ARGV[a + 2])\n    or "
    size = "\n    or used + math.max(bytes, tonumber(ARGV[a + 5])) > tonumber(ARGV[a + 4])"
    return [
        Mutation("commit: job uid", COMMIT, "job[1] ~= ARGV[2] or job[2]", "job[2]", both),
        Mutation("commit: plan fingerprint", COMMIT, " or job[2] ~= ARGV[3] then", " then", both),
        Mutation("commit: duplicate", COMMIT, "if stored == ARGV[8] then", "if false then", both),
        Mutation("commit: fence, epoch", COMMIT, "lease[1] ~= ARGV[5] or lease[2]", "lease[2]", both),
        Mutation("commit: fence, token", COMMIT, " or lease[2] ~= ARGV[6] then", " then", both),
        Mutation("commit: lost record", COMMIT, "if not stored then", "if false then", both),
        Mutation("commit: commit id", COMMIT, "if stored ~= ARGV[7] then", "if false then", both),
        Mutation("commit: head, nothing before the first", COMMIT, first, "", both),
        Mutation("commit: head, the last is there", COMMIT, last, "", both),
        Mutation("commit: head, as many entries", COMMIT, "< tonumber(ARGV[a + 3]) then", "< 0 then", both),
        Mutation("commit: room, entries", COMMIT, entries, "", both),
        Mutation("commit: room, bytes", COMMIT, size, "", both),
        Mutation("commit: reserve, entries", COMMIT, "math.max(frames, tonumber(ARGV[a + 3]))", "frames", both),
        Mutation("commit: reserve, bytes", COMMIT, "math.max(bytes, tonumber(ARGV[a + 5]))", "bytes", both),
        Mutation("commit: room for a commit over the reserve, entries", COMMIT, "math.max(frames, ", "(", SCHEDULES),
        Mutation("commit: room for a commit over the reserve, bytes", COMMIT, "math.max(bytes, ", "(", SCHEDULES),
        Mutation("commit: room, dead letters", COMMIT, "> tonumber(ARGV[17]) and n_dead > 0", "< 0", both),
        Mutation(
            "commit: room, an edge's own capacity",
            ARGUMENTS,
            "own = channel_limits(edge, limits)",
            "own = channel_limits(edge.path, limits)",
            (STORE + "test_store_commit.py::test_an_edges_own_capacity_is_the_one_that_counts",),
        ),
        Mutation("commit: rights before writes", COMMIT, "not redis.acl_check_cmd(...)", "false", RIGHTS_TESTS),
        Mutation("commit: types before writes", COMMIT, "redis.call('HLEN', KEYS[2])", "", COMMIT_TESTS),
        Mutation("commit: bytes counted in", COMMIT, "stream, ARGV[a + 1])\nend", "stream, 0)\nend", both),
        Mutation("commit: bytes counted out", COMMIT, "0 - tonumber(ARGV[a + 4])", "0", both),
        Mutation("commit: exact trim", COMMIT, "'XTRIM', key, 'MINID', ARGV", "'XTRIM', key, 'MINID', '~', ARGV", both),
        Mutation("commit: gap in the batch", COMMIT, "if gap then", "if false then", both),
        Mutation(
            "commit: internal ones pass a full memory",
            STORE_PY,
            '_INTERNAL = Script("commit", "allow-oom")',
            '_INTERNAL = Script("commit")',
            COMMIT_TESTS,
        ),
        Mutation(
            "commit: ingest stops at a full memory",
            STORE_PY,
            '_INGEST = Script("commit")',
            '_INGEST = Script("commit", "allow-oom")',
            COMMIT_TESTS,
        ),
        Mutation(
            "part of an entry: it stays",
            ARGUMENTS,
            "consumed.last if consumed.partial else _behind(consumed.last)",
            "_behind(consumed.last)",
            SCHEDULES,
        ),
    ]


def _server() -> list[Mutation]:
    """What a server must be, and replicas."""
    client, tests = "market_data_pipeline/store/client.py", (STORE + "test_store_server.py",)
    volatile = 'if not info.get("aof_enabled") and not allow_volatile:'
    return [
        Mutation("server: version", client, "< needed:", "< (0, 0):", tests),
        Mutation("server: no cluster", client, 'if info.get("cluster_enabled"):', "if False:", tests),
        Mutation("server: nothing is evicted", client, 'if policy != "noeviction":', "if False:", tests),
        Mutation("server: streams are read fast", client, 'if config.get(name) == "0":', "if False:", tests),
        Mutation("server: keeps what it is told", client, volatile, "if False:", tests),
        Mutation(
            "replicas: a commit waits for them",
            "market_data_pipeline/store/committer.py",
            "while self._replicas and made:",
            "while False:",
            REPLICA_TESTS,
        ),
        Mutation(
            "replicas: a duplicate has a write to wait for",
            COMMIT,
            "redis.call('HSET', KEYS[1], 'commit', stored) --",
            "--",
            REPLICA_TESTS,
        ),
    ]


def _load() -> list[Mutation]:
    """What a task is given when it starts."""
    fence = "epoch != str(self._lease.epoch).encode() or token != self._lease.token.encode()"
    epoch, token = fence.split(" or ")
    started = (*ATTEMPT_TESTS, *SCHEDULES)
    lease = "lease[1] ~= ARGV[2] or lease[2] ~= ARGV[3]"
    return [
        Mutation("load: fence, epoch", STORE_PY, fence, token, (*COMMIT_TESTS, *ATTEMPT_TESTS)),
        Mutation("load: fence, token", STORE_PY, fence, epoch, (*COMMIT_TESTS, *ATTEMPT_TESTS)),
        Mutation("load: lost record", STORE_PY, "if commit is None:", "if False:", COMMIT_TESTS),
        Mutation(
            "load: waits for a heartbeat",
            STORE_PY,
            "while not self.lease_held():",
            "while False:",
            (*COMMIT_TESTS, *ATTEMPT_TESTS),
        ),
        Mutation(
            "attempt: idle commits do not begin anew",
            COMMIT,
            "if ARGV[18] == '1' and redis",
            "if false and redis",
            started,
        ),
        Mutation("attempt: commits with input begin anew", COMMIT, "if ARGV[18] == '1' and redis", "if redis", started),
        Mutation("attempt: fence, epoch", ATTEMPT, lease, "lease[2] ~= ARGV[3]", started),
        Mutation("attempt: fence, token", ATTEMPT, lease, "lease[1] ~= ARGV[2]", started),
        Mutation("attempt: lost record", ATTEMPT, "if not seen[1] then", "if false then", started),
        Mutation("attempt: commit id", ATTEMPT, "if seen[1] ~= ARGV[4] then", "if false then", started),
        Mutation(
            "attempt: counted anew at another commit", ATTEMPT, "if seen[2] == ARGV[4] then", "if seen[2] then", started
        ),
        Mutation("state: checksum", PACKING, "!= crc32c(data[4:])", "< 0", (*COMMIT_TESTS, *PACKING_TESTS)),
        Mutation("frame: checksum", CODEC, "!= crc32c(memoryview(blob)[:cut])", "< 0", CODEC_TESTS),
        Mutation("frame: size limit", CODEC, "    if len(blob) > limit:\n", "    if False:\n", CODEC_TESTS),
    ]


GUARDS: tuple[Mutation, ...] = (
    *_commit(),
    *_server(),
    *_load(),
)
