"""The #SBATCH lines of a script, read as strictly as sbatch reads them: no Slurm is needed."""

import re
import shlex

# The options that docker/deploy/slurm.sh uses, and the form of their value; None for one that takes none.
_FORMS: dict[str, str | None] = {
    "array": r"\d+-\d+(%\d+)?",
    "cpus-per-task": r"[1-9]\d*",
    "gres": r"gpu(:[\w-]+)?:[1-9]\d*",
    "job-name": r"[\w-]+",
    "mem": r"[1-9]\d*[KMGT]",
    "ntasks": r"[1-9]\d*",
    "open-mode": r"append|truncate",
    "output": r"(\w|%[Aaj]|[./-])+",
    "requeue": None,
    "signal": r"([RB]:)?(USR1|USR2|TERM|INT)(@\d+)?",
    "time": r"(\d+-)?\d\d:\d\d:\d\d",
}


def options(script: str) -> dict[str, str]:
    """Return the options by name; raise ValueError for one that is not known, ill-formed, double or comes too late."""
    found: dict[str, str] = {}
    over = False  # sbatch reads no further than the first command
    for line in script.splitlines():
        if not line.startswith("#"):
            over = over or bool(line.strip())
            continue
        directive = re.match(r"#\s*SBATCH\b(.*)", line, re.IGNORECASE)
        if directive is None:
            continue
        if over or not line.startswith("#SBATCH "):
            raise ValueError(f"sbatch does not read: {line}")
        [word] = shlex.split(directive[1], comments=True)
        name, equals, value = word.removeprefix("--").partition("=")
        if name not in _FORMS or not word.startswith("--"):
            raise ValueError(f"no option of sbatch: {word}")
        form = _FORMS[name]
        if bool(equals) is (form is None) or (form is not None and not re.fullmatch(form, value)):
            raise ValueError(f"ill-formed: {word}")
        if name in found:
            raise ValueError(f"twice: {word}")
        found[name] = value
    return found
