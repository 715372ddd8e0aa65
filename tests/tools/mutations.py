"""Every guard of the protocol, and how to take it away: what ``scripts/mutate`` does one at a time.

``old`` is found exactly once in its file (a test sees to that), ``new`` is what is there without the guard, ``tests`` are
those that must fail then.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

STORE = "tests/unit/store/"
GUARD_TESTS = (STORE + "test_store_guards.py",)
COMMIT_TESTS = (STORE + "test_store_commit.py",)
CONTROL_TESTS = (STORE + "test_store_control.py", *GUARD_TESTS)
DEPLOY_TESTS = (STORE + "test_store_deploy.py",)
ATTEMPT_TESTS = (*GUARD_TESTS, STORE + "test_store_attempts.py")
REPLICA_TESTS = (STORE + "test_store_attempts.py", STORE + "test_store_replicas.py")
RIGHTS_TESTS = (STORE + "test_store_rights_commit.py",)
HEART_TESTS = (STORE + "test_store_heartbeat.py", *GUARD_TESTS)
FILE_TESTS = ("tests/unit/sinks/test_sinks_file.py", "tests/unit/sinks/test_sinks_file_sizes.py")
SQLITE_TESTS = ("tests/unit/sinks/test_sinks_sqlite.py",)
CODEC_TESTS = ("tests/unit/test_codec.py",)
MEMORY_TESTS = ("tests/unit/runtime/test_runtime_memory_jobs.py",)
SCHEDULES = ("tests/contract/test_protocol_schedules.py::test_the_script_does_what_the_model_does[0]",)

LUA = "market_data_pipeline/store/scripts/"
COMMIT = LUA + "commit.lua"
ATTEMPT = LUA + "attempt.lua"
SWAP = LUA + "swap.lua"
STORE_PY = "market_data_pipeline/store/commit.py"
CODEC = "market_data_pipeline/codec.py"
FILES = "market_data_pipeline/sinks/file.py"
PARQUET = "market_data_pipeline/sinks/parquet.py"
COMPACTION = "market_data_pipeline/sinks/compaction.py"
REDIS_OUT = "market_data_pipeline/sinks/redis.py"
STAGED = "market_data_pipeline/sinks/staging.py"
SQLITE = "market_data_pipeline/sinks/sqlite.py"
TASK = "market_data_pipeline/runtime/task.py"
CHAIN_TASK = "market_data_pipeline/runtime/chain_task.py"


class Mutation(NamedTuple):
    guard: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


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
            "market_data_pipeline/store/commit_args.py",
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
        Mutation("state: checksum", CODEC, "!= crc32c(data[4:])", "< 0", (*COMMIT_TESTS, *CODEC_TESTS)),
        Mutation("frame: checksum", CODEC, "!= crc32c(memoryview(blob)[:cut])", "< 0", CODEC_TESTS),
        Mutation("frame: size limit", CODEC, "    if len(blob) > limit:\n", "    if False:\n", CODEC_TESTS),
    ]


def _control() -> list[Mutation]:
    """Leader, leases, heartbeats."""
    assign, lead, release = LUA + "assign.lua", LUA + "lead.lua", LUA + "release.lua"
    conclude, resign, resume = LUA + "conclude.lua", LUA + "resign.lua", LUA + "resume.lua"
    beat, forget, heart = LUA + "beat.lua", LUA + "forget.lua", "market_data_pipeline/store/heartbeat.py"
    ask, phase, rates = LUA + "ask.lua", LUA + "phase.lua", LUA + "rates.lua"
    retire, clear = LUA + "retire.lua", LUA + "clear.lua"
    worker = ("tests/unit/worker/test_worker_state.py",)
    state = "worker/mdp_worker/state.py"
    lease = "lease[1] ~= ARGV[1] or lease[2] ~= ARGV[2]"
    owner = "lease[1] ~= ARGV[7] or lease[2] ~= ARGV[8]"
    job = "job[1] ~= ARGV[1] or job[2] ~= 'failed'"
    running = "job[1] ~= ARGV[1] or job[2] ~= 'running'"
    return [
        Mutation(
            "assign: leader's term",
            assign,
            "if redis.call('GET', KEYS[1]) ~= ARGV[1] then",
            "if false then",
            CONTROL_TESTS,
        ),
        Mutation(
            "assign: epoch grows",
            assign,
            "'HINCRBY', KEYS[3], partition, 1)",
            "'HINCRBY', KEYS[3], partition, 0)",
            CONTROL_TESTS,
        ),
        Mutation("lead: one leader", lead, "if not held then", "if true then", CONTROL_TESTS),
        Mutation("lead: token", lead, "if token == ARGV[1] then", "if true then", CONTROL_TESTS),
        Mutation("lead: term grows", lead, "redis.call('INCR', KEYS[2])", "1", CONTROL_TESTS),
        Mutation(
            "resign: only the leader",
            resign,
            "if redis.call('GET', KEYS[1]) == ARGV[1] then",
            "if true then",
            CONTROL_TESTS,
        ),
        Mutation("release: lease, epoch", release, lease, "lease[2] ~= ARGV[2]", CONTROL_TESTS),
        Mutation("release: lease, token", release, lease, "lease[1] ~= ARGV[1]", CONTROL_TESTS),
        Mutation("conclude: lease, epoch", conclude, owner, "lease[2] ~= ARGV[8]", CONTROL_TESTS),
        Mutation("conclude: lease, token", conclude, owner, "lease[1] ~= ARGV[7]", CONTROL_TESTS),
        Mutation("conclude: job uid", conclude, running, "job[2] ~= 'running'", CONTROL_TESTS),
        Mutation("conclude: a running job", conclude, running, "job[1] ~= ARGV[1]", CONTROL_TESTS),
        Mutation("conclude: plan", conclude, "job[3] ~= ARGV[5]", "false", CONTROL_TESTS),
        Mutation("conclude: all tasks have ended", conclude, "< tonumber(ARGV[4]) then", "< 0 then", CONTROL_TESTS),
        Mutation("resume: job uid", resume, job, "job[2] ~= 'failed'", CONTROL_TESTS),
        Mutation("resume: a failed job", resume, job, "job[1] ~= ARGV[1]", CONTROL_TESTS),
        Mutation("swap: leader", SWAP, "redis.call('GET', KEYS[1]) ~= ARGV[1]", "false", DEPLOY_TESTS),
        Mutation("swap: job and plan", SWAP, "job[1] ~= ARGV[2] or job[2] ~= ARGV[3]", "false", DEPLOY_TESTS),
        Mutation("swap: no commit since", SWAP, "~= ARGV[13 + i]", "== ''", DEPLOY_TESTS),
        Mutation("swap: empty streams", SWAP, "redis.call('XLEN', KEYS[stream_key + i]) > 0", "false", DEPLOY_TESTS),
        Mutation(
            "swap: all is staged", SWAP, "'EXISTS', KEYS[staged_key + 2 * i]) == 0", "'TIME')[1] == 0", DEPLOY_TESTS
        ),
        Mutation("swap: all state is staged", SWAP, "KEYS[state_key + 2 * i]) == 0", "KEYS[1]) == 0", DEPLOY_TESTS),
        Mutation("swap: what was staged stays", SWAP, "'PERSIST', KEYS[state", "'TTL', KEYS[state", DEPLOY_TESTS),
        Mutation("swap: leases end", SWAP, "for i = 0, n_leases - 1 do", "for i = 0, -1 do", DEPLOY_TESTS),
        Mutation("phase: leader", phase, "redis.call('GET', KEYS[1]) ~= ARGV[1]", "false", DEPLOY_TESTS),
        Mutation("phase: job uid", phase, "job[1] ~= ARGV[2] or ", "", DEPLOY_TESTS),
        Mutation("phase: plan", phase, " or job[2] ~= ARGV[3]", "", DEPLOY_TESTS),
        Mutation("rates: leader", rates, "redis.call('GET', KEYS[1]) ~= ARGV[1]", "false", DEPLOY_TESTS),
        Mutation("rates: job uid", rates, "job[1] ~= ARGV[2] or ", "", DEPLOY_TESTS),
        Mutation("rates: plan", rates, " or job[2] ~= ARGV[3]", "", DEPLOY_TESTS),
        Mutation(
            "rates: nobody's are not obeyed",
            "market_data_pipeline/store/rates.py",
            "if now - self._heard_at < STALE_SECONDS else {}",
            "",
            (STORE + "test_store_rates.py",),
        ),
        Mutation("ask: job uid", ask, "job[1] ~= ARGV[1] or ", "", DEPLOY_TESTS),
        Mutation("ask: plan", ask, " or job[2] ~= ARGV[3]", "", DEPLOY_TESTS),
        Mutation(
            "remove: while it is marked", clear, "redis.call('HGET', KEYS[1], 'uid') ~= ''", "false", CONTROL_TESTS
        ),
        Mutation("lead: job uid", lead, "redis.call('HGET', ARGV[3], 'uid') ~= ARGV[4]", "false", CONTROL_TESTS),
        Mutation("beat: job uid", beat, "redis.call('HGET', ARGV[6], 'uid') ~= ARGV[7]", "false", CONTROL_TESTS),
        Mutation("retire: job uid", retire, "redis.call('HGET', KEYS[1], 'uid') ~= ARGV[1]", "false", CONTROL_TESTS),
        Mutation(
            "remove: mark first",
            "market_data_pipeline/store/control.py",
            "    await _RETIRE.call(client, [job.keys.record], [job.uid])\n",
            "",
            CONTROL_TESTS,
        ),
        Mutation(
            "publish: one job per name",
            LUA + "publish.lua",
            "if uid then",
            "if false then",
            (*CONTROL_TESTS, *COMMIT_TESTS),
        ),
        Mutation(
            "publish: another plan",
            "market_data_pipeline/store/control.py",
            "if job.fingerprint != plan.fingerprint:",
            "if False:",
            CONTROL_TESTS,
        ),
        Mutation(
            "heartbeat: a later process has the name",
            beat,
            "elseif number > mine then",
            "elseif false then",
            HEART_TESTS,
        ),
        Mutation("heartbeat: numbers are times", beat, "math.max(number + 1, ", "math.min(number + 1, ", HEART_TESTS),
        Mutation("forget: the one that leaves", forget, "== ARGV[1]\n", "~= nil\n", (*HEART_TESTS, *CONTROL_TESTS)),
        Mutation(
            "forget: who still beats",
            forget,
            "redis.call('EXISTS', KEYS[i]) == 0",
            "true",
            (*HEART_TESTS, *CONTROL_TESTS),
        ),
        Mutation(
            "lease: runs out without heartbeats",
            heart,
            "self._clock.monotonic() < self._held_until",
            "True",
            HEART_TESTS,
        ),
        Mutation(
            "lease: counts from before the heartbeat",
            heart,
            "self._held_until = sent +",
            "self._held_until = self._clock.monotonic() +",
            HEART_TESTS,
        ),
        Mutation("lease: superseded", heart, "not self.superseded and not", "not", HEART_TESTS),
        Mutation("worker: only its own partitions", state, " if owner.token == self._token", "", worker),
        Mutation(
            "worker: a new epoch is a new start",
            state,
            "if self._epochs.get(p) != epoch]",
            "if p not in self._epochs]",
            worker,
        ),
    ]


def _tasks() -> list[Mutation]:
    """What a task checks by itself."""
    return [
        Mutation(
            "task: reload on another run_id",
            TASK,
            "        if self._reload:\n            raise",
            "        if False:\n            raise",
            MEMORY_TESTS,
        ),
        Mutation(
            "task: lease before writing outside",
            TASK,
            "if not self.store.lease_held():",
            "if False:",
            ("tests/unit/runtime/test_runtime_suspicion.py",),
        ),
        Mutation(
            "task: frames of an unknown origin",
            CHAIN_TASK,
            "if origin not in self._origins[stream]:",
            "if False:",
            ("tests/unit/runtime/test_runtime_memory_jobs.py",),
        ),
        Mutation(
            "coroutine: reload",
            "market_data_pipeline/runtime/coroutine_task.py",
            "self.check_reload()",
            "pass",
            ("tests/unit/runtime/test_runtime_coroutine_reload.py",),
        ),
    ]


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


MUTATIONS: tuple[Mutation, ...] = (
    *_commit(), *_server(), *_load(), *_control(), *_tasks(), *_sinks(), *_parquet(), *_redis_output(),
)  # fmt: skip


def occurrences(root: Path, mutation: Mutation) -> int:
    """How often the guard's text is in its file."""
    return (root / mutation.file).read_text().count(mutation.old)
