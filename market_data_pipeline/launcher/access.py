"""``mdp acl``: the rules for the users of one job, as commands for the server's administrator."""

from __future__ import annotations

from collections.abc import Sequence

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.settings import load_settings
from market_data_pipeline.store.keys import check_name
from market_data_pipeline.store.rights import ROLES


def rules(names: Sequence[str], job: str | None, config: str | None = None) -> list[str]:
    """One ``ACL SETUSER`` line per role named, all of them where none is. The job is ``job`` or the setting. Raises
    ``ConfigError`` without a job (there is nothing to guess it from), for one that is no name, and for a role there is not.
    """
    roles = {role.name: role for role in ROLES}
    for name in names:
        if name not in roles:
            raise ConfigError(f"--role {name!r}: there is no such role; there are: {', '.join(roles)}")
    chosen = load_settings(job=job, config=config).job
    if chosen is None:
        raise ConfigError("which job? give --job NAME or set MDP_JOB: the rules open the keys of one job")
    check_name("--job", chosen)
    return [f"ACL SETUSER {roles[name].rule(chosen)}" for name in names or roles]
