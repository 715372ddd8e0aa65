"""What is looked at where objects are made and runs begin, and what a task may not do when its answers to errors go wrong."""

from __future__ import annotations

from tools.mutations.mutation import Mutation

SETTINGS = "market_data_pipeline/settings.py"
ORCHESTRATOR = "tests/unit/orchestration/test_orchestration_orchestrator.py::"
ROUTING, STANDBY = "market_data_pipeline/sources/routing.py", "market_data_pipeline/sources/standby.py"
STANDBY_TESTS, ROUTE_TESTS = ("tests/unit/sources/test_standby.py",), ("tests/unit/sources/test_routes.py",)


def _given() -> list[Mutation]:
    answers = "of what answers errors: else the task would stand, and the job count as healthy"
    own = "tests/unit/top/test_top_settings_tree.py::test_all_mistakes_of_a_file_are_told_together_and_each_once"
    return [
        Mutation(
            "worker: what goes wrong in an answer to an error fails the job",
            "worker/mdp_worker/service.py",
            f"        except Exception as error:  # {answers}",
            "        except ZeroDivisionError as error:",
            ("tests/unit/worker/test_worker_standing.py",),
        ),
        Mutation(
            "embedded server: who answers is ours",
            "market_data_pipeline/store/embedded.py",
            '        return info.get("process_id") == self.pid',
            "        return True",
            ("tests/unit/store/test_store_server.py::test_nor_is_it_taken_for_ours_where_a_loop_waits",),
        ),
        Mutation(
            "run: a sink of one process is refused over several",
            "market_data_pipeline/launcher/job_run.py",
            "    check_processes(dag)\n",
            "",
            ("tests/unit/launcher/test_launcher_worries.py",),
        ),
        Mutation(
            "graph: an edge's options are options",
            "market_data_pipeline/dag/graph.py",
            '            self._check_types(f"edge {edge.src} -> {edge.dst}", channel=edge.channel)',
            "            pass",
            ("tests/unit/dag/test_dag_options.py::test_a_dag_refuses_values_of_a_wrong_type",),
        ),
        Mutation(
            "given: true is no number",
            "market_data_pipeline/given.py",
            "if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):",
            "if not isinstance(value, Integral if whole else Real):",
            (ORCHESTRATOR + "test_a_wrong_type_is_told_where_the_object_is_made",),
        ),
        Mutation(
            "settings: a mistake is told once",
            SETTINGS,
            'told = [each for each in error.errors() if not any(each["loc"][: len(place)] == place for place in wrong)]',
            "told = error.errors()",
            (own,),
        ),
        Mutation(
            "settings: what a program gives is no flag",
            SETTINGS,
            "said | dict.fromkeys(given, PROGRAM)",
            "dict.fromkeys(present | dict(given), PROGRAM)",
            (ORCHESTRATOR + "test_what_a_program_gives_is_called_by_no_flag",),
        ),
        Mutation(
            "dump: an object's method goes by no name",
            "market_data_pipeline/catalog/importable.py",
            "if inspect.ismethod(thing) and not isinstance(thing.__self__, type):",
            "if False:",
            ("tests/unit/catalog/test_dump.py::test_what_a_script_makes_an_object_for_goes_by_no_name",),
        ),
    ]


def _kinds() -> list[Mutation]:
    return [
        Mutation(
            "route: a kind that is refused moves alone",
            ROUTING,
            "self._fitness[symbol, self._leading][present].refused",
            "False",
            ROUTE_TESTS,
        ),
        Mutation(
            "standby: who is only quiet stands in where nobody is fit",
            STANDBY,
            "routing.quiet(item) or speaker",
            "speaker",
            STANDBY_TESTS,
        ),
        Mutation(
            "standby: places of records never go back",
            STANDBY,
            "number = max(number, step.number)",
            "number = step.number",
            STANDBY_TESTS,
        ),
    ]


GUARDS: tuple[Mutation, ...] = (*_given(), *_kinds())
