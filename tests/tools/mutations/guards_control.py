"""Leader, leases, heartbeats, deployments."""

from __future__ import annotations

from tools.mutations.mutation import COMMIT_TESTS, GUARD_TESTS, LUA, STORE, Mutation

CONTROL_TESTS = (STORE + "test_store_control.py", *GUARD_TESTS)
DEPLOY_TESTS = (STORE + "test_store_deploy.py",)
HEART_TESTS = (STORE + "test_store_heartbeat.py", *GUARD_TESTS)
SWAP = LUA + "swap.lua"


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
        Mutation(
            "worker: no heartbeat behind its goodbye",
            "worker/mdp_worker/service.py",
            "            heart.stop()\n        await self._give_back()",
            "            pass\n        await self._give_back()",
            ("tests/unit/worker/test_worker_goodbye.py",),
        ),
        Mutation("worker: only its own partitions", state, " if owner.token == self._token", "", worker),
        Mutation(
            "worker: a new epoch is a new start",
            state,
            "if self._epochs.get(p) != epoch]",
            "if p not in self._epochs]",
            worker,
        ),
    ]


GUARDS: tuple[Mutation, ...] = (*_control(),)
