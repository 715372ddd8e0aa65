"""What tasks check by themselves, and how runs end."""

from __future__ import annotations

from tools.mutations.mutation import Mutation

MEMORY_TESTS = ("tests/unit/runtime/test_runtime_memory_jobs.py",)
TASK = "market_data_pipeline/runtime/task.py"
RUNTIME = "market_data_pipeline/orchestration/runtime.py"
CHAIN_TASK = "market_data_pipeline/runtime/chain_task.py"


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


def _options() -> list[Mutation]:
    """Capacity, on_error and retries of one edge or node."""
    room = "max(0, min(of.levels.low, of.capacity - commit_frames))"
    return [
        Mutation(
            "gate: room for a commit, not only the low level",
            "market_data_pipeline/runtime/gate.py",
            room,
            "of.levels.low",
            ("tests/unit/runtime/test_runtime_channel_limits.py",),
        ),
        Mutation(
            "sink: what must not be lost fails the job",
            CHAIN_TASK,
            '        self.calling = ""\n        self._refusals.check()',
            '        self.calling = ""',
            ("tests/unit/runtime/test_runtime_on_error.py",),
        ),
        Mutation(
            "in process: a step made once more refuses once",
            "market_data_pipeline/runtime/local_ends.py",
            "if not prepared:\n                    self._refusals.undo(",
            "if False:\n                    self._refusals.undo(",
            ("tests/unit/runtime/test_runtime_local_retries.py",),
        ),
        Mutation(
            "retries: progress begins the count anew",
            "worker/mdp_worker/waits.py",
            "if progress != self._progress:",
            "if False:",
            ("tests/unit/worker/test_worker_waits.py",),
        ),
    ]


def _runs() -> list[Mutation]:
    """Several runs in one process, and how they end."""
    tests = ("tests/unit/orchestration/test_orchestration_runtime.py",)
    leaving = "            for running in self.running.values():\n                running.cut()"
    child = 'return [sys.executable, "-I", "-S", "-c", _FIRST, str(os.getpid()), *command]'
    return [
        Mutation("run: a name is one run's", RUNTIME, "if name in self.running:", "if name in ():", tests),
        Mutation(
            "run: an end that comes late leaves the next one of its name",
            RUNTIME,
            "if self._running.get(running.name) is running:",
            "if True:",
            tests,
        ),
        Mutation("run: cancelled while it is left, nothing goes on", RUNTIME, leaving, "            pass", tests),
        Mutation(
            "run: what does not end in time is cut short",
            "market_data_pipeline/orchestration/running.py",
            "            await self.cancel()\n        return self.status()",
            "        return self.status()",
            tests,
        ),
        Mutation(
            "run: one that was stopped first begins no job",
            "market_data_pipeline/orchestration/places.py",
            "if self._stopping:",
            "if False:",
            ("tests/unit/orchestration/test_orchestration_orchestrator.py",),
        ),
        Mutation(
            "run: a source that was stopped has not finished",
            "market_data_pipeline/runtime/local.py",
            "            else:\n                self.runtime.cut = True\n",
            "",
            tests,
        ),
        Mutation(
            "run: a node that is cancelled from within has not finished",
            "market_data_pipeline/runtime/cancellation.py",
            "if task is not None and task.cancelling():",
            "if True:",
            ("tests/unit/runtime/test_runtime_cancellation.py",),
        ),
        Mutation(
            "run: a panic is no end",
            "market_data_pipeline/runtime/cancellation.py",
            "    except BaseException as error:\n",
            "    except ZeroDivisionError as error:\n",
            ("tests/unit/runtime/test_runtime_cancellation.py",),
        ),
        Mutation(
            "run: it is cancelled once",
            "market_data_pipeline/orchestration/running.py",
            "if insisting or not self._task.cancelling():",
            "if True:",
            tests,
        ),
        Mutation(
            "children: one that was stopped ends, too",
            "market_data_pipeline/processes.py",
            "    process.send_signal(signal.SIGCONT)\n",
            "",
            ("tests/unit/launcher/test_launcher_job_run.py::test_a_child_that_was_stopped_is_ended_too",),
        ),
        Mutation(
            "children: they go with a parent that was killed",
            "market_data_pipeline/processes.py",
            child,
            "return list(command)",
            ("tests/unit/launcher/test_launcher_job_run.py::test_a_child_goes_with_a_parent_that_was_killed",),
        ),
    ]


GUARDS: tuple[Mutation, ...] = (*_tasks(), *_options(), *_runs())
