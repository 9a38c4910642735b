"""kloc contribute: a finished run in one file, to send to others, who judge it with kloc verify."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from artifact.cli.app import check_outputs, writing
from artifact.cli.runs import RunFolder
from artifact.errors import SettingError
from artifact.sizes import size_words
from artifact.terminal import say


def contribute(
    run_folder: RunFolder,
    *,
    out: Annotated[Path | None, Parameter(help="File to write (default: RUN.zip beside the run's folder).")] = None,
    partial: Annotated[
        bool, Parameter(help="Also pack an unfinished run, for example one with cases that do not fit the device.")
    ] = False,
) -> int:
    """Pack a finished run, with settings, hashes and hardware, to send it to others: kloc verify PACK judges it."""
    from artifact.runs.pack import pack

    place = out or run_folder.absolute().with_name(f"{run_folder.absolute().name}.zip")
    if out is None and place.exists():
        raise SettingError(f"{place}: is there already; name another file with --out, or remove it")
    check_outputs({"--out": place}, (run_folder / "run.sqlite",))
    with writing(place):
        manifest = pack(run_folder, place, partial)
    for name, file in sorted(manifest.files.items()):
        say(f"{name}: {size_words(file.size)}, sha256 {file.sha256}")
    say("the pack names the machine's hardware, and paths that you gave as options (run.json, given)")
    say(place)
    return 0
