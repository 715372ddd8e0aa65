"""What documents, the registry and settings check, and what they must not tell."""

from __future__ import annotations

from tools.mutations.mutation import Mutation

CATALOG = "market_data_pipeline/catalog/"
LOAD = CATALOG + "load.py"
DUMP = CATALOG + "dump.py"
SETTINGS = "market_data_pipeline/settings.py"
CATALOG_TESTS = "tests/unit/catalog/"
TREE = "tests/unit/top/test_top_settings_tree.py"


def _documents() -> list[Mutation]:
    text_tests = CATALOG_TESTS + "test_document_text.py::test_what_is_refused_says_where_and_why"
    secrets = CATALOG_TESTS + "test_document_load.py::test_secrets_come_from_the_environment_and_nothing_shows_them"
    made = CATALOG_TESTS + "test_document_components.py::test_a_document_makes_what_a_program_makes"
    placed = "compile_dag(dag, 1)  # what cannot be placed cannot be placed over any number of partitions"
    filled = "validate_python(str(value)) if isinstance(value, Filled) else value"
    return [
        Mutation(
            "document: a key stands there once",
            CATALOG + "text.py",
            "            if key in nodes:",
            "            if False:",
            (text_tests + "[key twice]",),
        ),
        Mutation(
            "document: depth, aliases counted",
            CATALOG + "text.py",
            "if depth + node.height - 1 > DEEPEST:",
            "if False:",
            (text_tests + "[deep by aliases]",),
        ),
        Mutation(
            "document: no secret in a mistake",
            LOAD,
            "why = hidden(why, self._secrets)",
            "why = why",
            (secrets,),
        ),
        Mutation(
            "document: a secret that begins with another",
            CATALOG + "filling.py",
            "for form in sorted(forms, key=len, reverse=True):",
            "for form in sorted(forms, key=len):",
            (CATALOG_TESTS + "test_document_load.py::test_a_secret_that_begins_with_another_is_hidden_whole",),
        ),
        Mutation(
            "document: a secret as repr writes it",
            CATALOG + "filling.py",
            "for form in (secret, repr(secret)[1:-1])}",
            "for form in (secret,)}",
            (CATALOG_TESTS + "test_document_mistakes.py::test_secrets_are_hidden_however_a_message_writes_them",),
        ),
        Mutation(
            "document: its modules are those beside it",
            CATALOG + "neighbours.py",
            "if there is None or Path(there).resolve() == beside.resolve():",
            "if True:",
            (CATALOG_TESTS + "test_document_load.py::test_files_of_two_folders_name_what_stands_beside_each",),
        ),
        Mutation(
            "program: its neighbours are those beside it",
            "market_data_pipeline/app.py",
            "if others := list(strangers(imports_of(path), folder)):",
            "if others := list[str]():",
            ("tests/unit/top/test_top_app.py::test_a_program_gets_no_neighbour_of_another_one",),
        ),
        Mutation(
            "document: a mistake is text for a terminal",
            LOAD,
            "visible(line)))",
            "line))",
            (CATALOG_TESTS + "test_document_mistakes.py",),
        ),
        Mutation(
            "document: text of the environment is no number by itself",
            CATALOG + "shapes.py",
            filled,
            "validate_python(str(value) if isinstance(value, Filled) else value)",
            (made + "[operator-throttle]",),
        ),
        Mutation(
            "document: what cannot be placed is a mistake",
            LOAD,
            placed,
            "pass",
            (CATALOG_TESTS + "test_document_mistakes.py::test_all_mistakes_of_a_document[placement]",),
        ),
    ]


def _dumps() -> list[Mutation]:
    dumps = CATALOG_TESTS + "test_dump.py::"
    return [
        Mutation(
            "dump: it is the same when it is written down again",
            DUMP,
            'found = first_difference(_by_name(dumped.document), _by_name(written), "document")',
            "found = None",
            (dumps + "test_what_comes_back_as_something_else_is_refused",),
        ),
        Mutation(
            "dump: a secret comes back as it was",
            DUMP,
            "if found is None and again.secrets != writing.secrets:",
            "if False:",
            (dumps + "test_what_comes_back_as_something_else_is_refused",),
        ),
        Mutation(
            "dump: no secret in an error",
            DUMP,
            "hidden(difference, writing.secrets.values())",
            "difference",
            (dumps + "test_no_secret_stands_in_an_error",),
        ),
        Mutation(
            "dump: a literal mark is marked",
            CATALOG + "writing.py",
            'return text.replace("${", "$${")',
            "return text",
            (dumps + "test_every_component_comes_back[sink-json_lines]",),
        ),
        Mutation(
            "dump: an address with a password is a secret",
            CATALOG + "writing.py",
            'if "@" in text and _has_password(text):',
            "if False:",
            (dumps + "test_a_provider_of_ones_own_comes_back",),
        ),
        Mutation(
            "program: a document is for its owner's eyes alone",
            "market_data_pipeline/orchestration/program.py",
            "0o600",
            "0o644",
            ("tests/unit/orchestration/test_orchestration_program.py",),
        ),
    ]


def _registry() -> list[Mutation]:
    registry, tests = CATALOG + "registry.py", CATALOG_TESTS + "test_registry.py::"
    return [
        Mutation(
            "registry: a name is one package's",
            registry,
            "        _check_alone(entries)",
            "        entries = entries[:1]",
            (tests + "test_a_package_cannot_take_the_place_of_a_builtin",),
        ),
        Mutation(
            "registry: of two copies of a package one counts",
            registry,
            "if name not in seen:",
            "if True:",
            (tests + "test_the_first_of_two_copies_of_one_package_counts",),
        ),
    ]


def _settings() -> list[Mutation]:
    frames = "if self.channel_bytes < 2 * self.commit_frames * self.frame_bytes:"
    return [
        Mutation(
            "settings: a file is stronger than the environment",
            SETTINGS,
            "return init_settings, FileSource(settings_cls, dict(file.values)), env_settings",
            "return init_settings, env_settings, FileSource(settings_cls, dict(file.values))",
            (TREE + "::test_each_source_is_stronger_than_the_one_before",),
        ),
        Mutation(
            "settings: children have the effective values",
            SETTINGS,
            "return variables | inherited",
            "return variables",
            (TREE + "::test_children_have_the_effective_values_whatever_they_inherit",),
        ),
        Mutation(
            "settings: children read no file",
            SETTINGS,
            'ours = {"MDP_CONFIG", *effective}',
            "ours = {*effective}",
            (TREE + "::test_children_have_the_effective_values_whatever_they_inherit",),
        ),
        Mutation(
            "settings: no secret in an error of the file's form",
            "market_data_pipeline/settings_file.py",
            'told, left_out = _REPEATED.subn("...", str(error).removeprefix(name))',
            "told, left_out = str(error).removeprefix(name), 0",
            (TREE + "::test_what_a_file_must_not_say",),
        ),
        Mutation(
            "settings: no secret in an error of a value",
            SETTINGS,
            'shown = "***" if leaf.secret else repr(error["input"])',
            'shown = repr(error["input"])',
            (TREE + "::test_all_wrong_values_are_told_with_their_lines_and_secrets_are_not",),
        ),
        Mutation(
            "settings: a stream's bytes hold a commit",
            SETTINGS,
            frames,
            "if False:",
            ("tests/unit/top/test_top_settings.py",),
        ),
    ]


GUARDS: tuple[Mutation, ...] = (*_documents(), *_dumps(), *_registry(), *_settings())
