"""Sessions: `nox -s smoke` shows every stage once, `nox -s tests` runs the suite, `nox -s lint` the checkers."""

import nox

nox.needs_version = ">=2025.2.9"
# virtualenv and pip: pip takes a local torch wheel from PIP_FIND_LINKS, which uv does not look at.
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "tests", "smoke"]

# Python compiles what it imports; compiling all of torch and scipy at install time takes longer than the smoke run.
PIP = ("--no-compile", "-c", "constraints.txt")
KEEP_COMPILED = {"PYTHONDONTWRITEBYTECODE": ""}  # where it is set, every process would compile again
PROJECT = nox.project.load_toml("pyproject.toml")


def _group(name: str) -> list[str]:
    return nox.project.dependency_groups(PROJECT, name)


@nox.session
def smoke(session: nox.Session) -> None:
    """Facts traced and edited from both perspectives, tables, a figure, a verdict. `-- --model gpt2` insists."""
    # Installed as a wheel, as a user has it, not from the working tree.
    session.install(*PIP, ".")
    session.run("kloc", "smoke", *session.posargs, env=KEEP_COMPILED)


@nox.session
def tests(session: nox.Session) -> None:
    """The test suite: golden numbers, properties, faults, the command line. No network but loopback."""
    session.install(*PIP, "-e", ".", *_group("tests"))
    workers = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
    session.run("pytest", *(session.posargs or workers), env={"OMP_NUM_THREADS": "1", **KEEP_COMPILED})


@nox.session
def lint(session: nox.Session) -> None:
    """ruff (lint and format), mypy, hadolint."""
    # With the typed dependencies; torch and transformers take minutes to install and mypy reads them as Any.
    typed = [name for name in PROJECT["project"]["dependencies"] if not name.startswith(("torch", "transformers"))]
    session.install(*PIP, *typed, *_group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")
    session.run("hadolint", "Dockerfile")
