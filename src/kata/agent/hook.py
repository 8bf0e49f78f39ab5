"""Guest hooks: programs of the guest's image that run round every container of a sandbox."""

import os
import stat

from kata.protocol.messages.oci import Hook, Hooks, Spec

_KINDS = {"prestart": "Prestart", "poststart": "Poststart", "poststop": "Poststop"}


def find_hooks(directory: str) -> dict[str, list[Hook]]:
    """The executable files below `directory`/{prestart,poststart,poststop}, by kind, in the order of their names."""
    hooks: dict[str, list[Hook]] = {}
    for kind in _KINDS:
        try:
            names = sorted(os.listdir(f"{directory}/{kind}"))
        except (FileNotFoundError, NotADirectoryError):
            continue
        paths = [f"{directory}/{kind}/{name}" for name in names]
        environment = [f"PATH={os.environ.get('PATH', '')}"]
        hooks[kind] = [Hook(Path=path, Args=[path, kind], Env=environment) for path in paths if _is_program(path)]
    return hooks


def _is_program(path: str) -> bool:
    mode = os.stat(path).st_mode
    return stat.S_ISREG(mode) and bool(mode & 0o111)


def append_hooks(spec: Spec, hooks: dict[str, list[Hook]]) -> None:
    """Run the guest's hooks after those that the specification has."""
    if not any(hooks.values()):
        return
    spec.Hooks = spec.Hooks or Hooks()
    for kind, field in _KINDS.items():
        getattr(spec.Hooks, field).extend(hooks.get(kind, ()))
