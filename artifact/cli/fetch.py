"""kloc fetch: fetch the paper's models, data and weights into the cache, list them, and check them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from artifact.errors import ArtifactError, FactError, SettingError
from artifact.facts.dataset import Data
from artifact.io import sha256_of
from artifact.progress import Display, display
from artifact.sizes import size_words
from artifact.sources.cache import cache_folder, converted_file, converted_folder, hub_file, source_folder
from artifact.sources.catalogue import GROUPS, SOURCES, HubModel, PlainSource, Source
from artifact.sources.download import Tell
from artifact.sources.fetch import check_room, discard, fetch_source, offline, state_of
from artifact.sources.lock import entry_of, holding, note_unusable, record, recorded, unusable
from artifact.sources.verify import examine
from artifact.terminal import complain, say


def fetch(
    *what: Annotated[
        str, Parameter(help="Names of sources, or full for all that the paper needs. Without a name: list them.")
    ],
    check: Annotated[
        bool, Parameter(help="Only check the hashes of what is there, without a network. Exit code 2: damaged.")
    ] = False,
    again: Annotated[
        bool, Parameter(help="Delete these sources and their recorded hashes, then fetch them again.")
    ] = False,
) -> int:
    """Fetch models, data and weights from pinned places. Cut downloads resume; every file is verified by its hash."""
    sources = [SOURCES[name] for name in _names(what)]
    if again:
        if check or not what:
            raise SettingError("--again needs the names of sources and excludes --check; give kloc fetch NAME --again")
        if offline():
            raise SettingError("--again needs a network, and HF_HUB_OFFLINE is set; unset it")
        for source in sources:
            discard(source)
    if check:
        return _check(sources or list(SOURCES.values()))
    if not sources:
        _list()
        return 0
    check_room(sources)
    failed = 0
    with display() as show:
        for source in sources:
            try:
                folder = fetch_source(source, show.say, _bytes(show, source.name))
                folder = _converted(source, show) or folder
            except ArtifactError as error:  # the others can still come
                complain(error)
                failed = error.exit_code
            else:
                show.say(f"{source.name}: {folder}")
    return failed


def obtain(names: Sequence[str], optional: Sequence[str] = ()) -> None:
    """Fetch the sources that are not there yet; those of `optional` that fail are reported and skipped.

    Raises FactError or ModelError for the first of `names` that cannot be had.
    """
    wanted = [SOURCES[name] for name in (*names, *optional)]
    missing = [source for source in wanted if state_of(source) != "here" or _unconverted(source)]
    if not missing:
        return
    if not offline():
        check_room(missing)
    with display() as show:
        for source in missing:
            try:
                fetch_source(source, show.say, _bytes(show, source.name))
                _converted(source, show)
            except ArtifactError as error:
                if source.name not in optional:
                    raise
                show.say(f"{source.name}: left out ({error})")


def named_data(facts: str) -> Data:
    """The data set or the user's file of that name, fetched where it can be."""
    from artifact.runs.inputs import Given, named_data_set, read_data, sources_of

    given = Given(facts=facts)
    chosen = named_data_set(facts)
    obtain(sources_of(chosen, given))
    return read_data(chosen, given, by_id=False)


def _names(what: tuple[str, ...]) -> list[str]:
    names: list[str] = []
    for name in what:
        if name not in SOURCES and name not in GROUPS:
            raise FactError(f"{name!r} is not a source; give one of {', '.join([*SOURCES, *GROUPS])}")
        names += GROUPS.get(name, (name,))
    return list(dict.fromkeys(names))


def _list() -> None:
    for source in SOURCES.values():
        size = f"{'' if source.exact else '~'}{size_words(source.size)}"
        say(f"{source.name:<16} {size:>9}  {state_of(source):<9} {source.licence:<19} {source.purpose}")
        say(f"{'':<38}{source.citation}")
    say(f"cache: {cache_folder()}; models: the hub's cache (HF_HOME)")


def _check(sources: list[Source]) -> int:
    damaged = 0
    for source in sources:
        for finding in examine(source):
            if finding.state == "damaged":
                damaged += 1
                complain(f"{finding.key}: damaged, {finding.words}; run kloc fetch {source.name} to fetch it again")
            elif finding.state == "unusable":
                damaged += 1
                complain(f"{finding.key}: {finding.words}")
            elif finding.state == "missing":
                say(f"missing  {finding.key}: kloc fetch {source.name}")
            elif finding.state == "new":
                say(f"not verified  {finding.key}: no hash is pinned or recorded; kloc fetch {source.name} records it")
            else:
                say(f"whole    {finding.key}")
    return 2 if damaged else 0


def _converted(source: Source, show: Display) -> Path | None:
    """Convert a pickle to safetensors, once; the new place, None for what is not a pickle."""
    if isinstance(source, HubModel):
        if not source.pickled or converted_folder(source).is_dir():
            return None
        from artifact.sources.convert import convert_model

        show.say(f"{source.name}: converting the pickle to safetensors")
        published = hub_file(source, source.weights)
        assert published is not None  # it was fetched a moment ago
        return convert_model(source, published.parent)
    if source.name.startswith("mend-"):
        return _converted_mend(source, show)
    return None


def _unconverted(source: Source) -> bool:
    """Whether MEND's pickle is there and not converted: it was put there by hand, or refused before."""
    if isinstance(source, HubModel) or not source.name.startswith("mend-"):
        return False
    published = source_folder(source) / source.files[0].name
    return published.is_file() and not converted_file(published).is_file()


def _converted_mend(source: PlainSource, show: Display) -> Path:
    published = source_folder(source) / source.files[0].name
    made = converted_file(published)
    key, key_made = f"{source.name}/{published.name}", f"{source.name}/{made.name}"
    with holding(source_folder(source), show.say):
        fetched, entry = recorded(key), recorded(key_made)
        made_from = fetched.sha256 if fetched else sha256_of(published)  # recorded when it was verified a moment ago
        if entry and entry.made_from == made_from and made.is_file() and sha256_of(made) == entry.sha256:
            return made
        if why := unusable(key, published, made_from):
            raise SettingError(why)
        from artifact.editing.mend_weights import convert

        show.say(f"{source.name}: converting the pickle to safetensors")
        try:
            convert(published, made)
        except SettingError as error:
            # The file stays: gigabytes are not fetched again only to be refused again.
            why = (
                f"{str(error).removesuffix('; give a whole file')}; it is kept, and not read again: give "
                "--mend-weights a network of your own (kloc mend-train), fetch it anew with kloc fetch "
                f"{source.name} --again, put another file in its place, or leave MEND out"
            )
            note_unusable(key, published, why)
            raise SettingError(why) from None
        record(key_made, entry_of(made, made_from=made_from))
    return made


def _bytes(show: Display, name: str) -> Tell:
    """What a source's download calls with the bytes that are there and those that there will be."""
    bar = show.bar(name)

    def tell(done: int, total: int | None) -> None:
        of = f" of {size_words(total)}" if total else ""
        bar.at(done, total, lambda rate: f"{size_words(done)}{of}, {rate / 1e6:.1f} MB/s")

    return tell
