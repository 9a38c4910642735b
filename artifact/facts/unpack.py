"""One file out of a fetched zip archive, safely: no path out of the folder, no more bytes than were agreed on.

It fetches nothing and reads no other archives.
"""

import os
import shutil
import zlib
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile, ZipInfo

from artifact.errors import FactError
from artifact.facts.download import UNFINISHED
from artifact.facts.sources import Member


class Unusable(FactError):
    """The archive is not what it was taken for; its own bytes are at fault."""


def unpack(archive: Path, member: Member, out: Path) -> None:
    """Write the archive's one file called `member.name`, in whatever folder of it, to `out`, in one step.

    Raises Unusable for an archive that is damaged, names a path outside itself, has no or several such files, or
    one of more than `member.limit` bytes; FactError when `out` cannot be written. Nothing is left of what is refused.
    """
    part = out.with_name(out.name + UNFINISHED)
    try:
        with ZipFile(archive) as opened:
            entry = _entry(opened, archive, member)
            with opened.open(entry) as stream, part.open("wb") as written:
                shutil.copyfileobj(stream, written)  # zipfile reads no more than the entry says, and checks its sum
        os.replace(part, out)
    except (BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise Unusable(f"{archive}: is no whole zip archive ({error}); run kloc fetch again") from None
    except OSError as error:
        raise FactError(f"{out}: cannot be written ({error.strerror}); make room, or set KLOC_CACHE") from None
    finally:
        part.unlink(missing_ok=True)


def _entry(opened: ZipFile, archive: Path, member: Member) -> ZipInfo:
    found = []
    for entry in opened.infolist():
        path = PurePosixPath(entry.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in "".join(path.parts[:1]):
            raise Unusable(
                f"{archive}: names a path outside itself ({entry.filename!r}), so nothing of it is unpacked; run "
                "kloc fetch again"
            )
        if path.name == member.name and "__MACOSX" not in path.parts:
            found.append(entry)
    if len(found) != 1:
        raise Unusable(f"{archive}: expected one {member.name} in it, got {len(found)}; run kloc fetch again")
    if found[0].file_size > member.limit:
        raise Unusable(
            f"{archive}: {member.name} in it is longer than {member.limit / 1e6:.0f} MB, so it is not unpacked; run "
            "kloc fetch again"
        )
    return found[0]
