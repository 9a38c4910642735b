"""kloc moments: second moments of an output projection's inputs from texts the user has."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from artifact.cli.app import Device, Dtype, Model, load_model
from artifact.cli.bounds import between
from artifact.editing.site import Module
from artifact.errors import Interrupted, SettingError
from artifact.progress import Display, display
from artifact.sizes import count_of
from artifact.terminal import complain, say

if TYPE_CHECKING:
    from artifact.editing.texts import Source


@Parameter(name="*")
@dataclass(frozen=True)
class Sums:
    """What is summed: which texts, and whose inputs."""

    texts: Annotated[
        str | None,
        Parameter(
            help="File with one text a line (.txt) or with JSON lines that have the field text (.jsonl), or - for "
            "standard input. The world has its own texts.",
            allow_leading_hyphen=True,
        ),
    ] = None
    layers: Annotated[str | None, Parameter(help="Layers, such as 13,14 (default: those that a method edits).")] = None
    site: Annotated[
        Module,
        Parameter(help="Whose keys: the inputs of the MLP's or of the attention's output projection."),
    ] = "mlp"
    samples: Annotated[int, Parameter(help="At most this many texts, from the start of the source.")] = 100_000

    def source(self, model: str) -> "AbstractContextManager[Source]":
        """The texts, open; SettingError for a model that has none of its own where none are given."""
        from artifact.editing.texts import open_source, world_source

        if self.texts is not None:
            return open_source(self.texts)
        if model != "world":
            raise SettingError(f"model {model} has no built-in texts; give --texts FILE, or - for standard input")
        return world_source()


_SUMS = Sums()


def moments(
    *,
    model: Model,
    out: Annotated[Path, Parameter(help="Folder for one file a layer, and moments.json, which describes them.")],
    sums: Sums = _SUMS,
    device: Device = None,
    dtype: Dtype = "float32",
    batch_tokens: Annotated[int, Parameter(help="Tokens of a batch, padding included.")] = 4096,
    checkpoint_minutes: Annotated[
        float, Parameter(help="Minutes between checkpoints.", validator=between(0, 1_000_000))
    ] = 10.0,
) -> int:
    """Collect second moments in the published layout. After an interruption the same command resumes."""
    from artifact.editing.methods import METHODS, moment_layers
    from artifact.editing.moments.collect import check_counts, collect
    from artifact.lm.device import use_tf32

    check_counts(sums.samples, batch_tokens)
    chosen = None if sums.layers is None else _layers(sums.layers)
    with sums.source(model) as source:
        loaded = load_model(model, device, dtype)
        use_tf32(False)  # sums over millions of tokens are worth full float32
        with _stopping(source) as stop, display() as show:
            found = collect(
                loaded,
                source,
                moment_layers(METHODS, loaded.name, loaded.decoder.layers) if chosen is None else chosen,
                out,
                site=sums.site,
                samples=sums.samples,
                batch_tokens=batch_tokens,
                checkpoint_seconds=60 * checkpoint_minutes,
                stop=stop,
                tell=_texts(show, sums.samples),
                say=complain,
            )
    say(f"{found.source}: {count_of(found.texts, 'text')}, {count_of(found.tokens, 'token')}, longest {found.longest}")
    say(f"{found.cut} cut at the model's {found.positions} positions, {found.skipped} skipped (empty, unknown words)")
    say(f"layers {', '.join(map(str, found.layers))} of {found.model}; text sha256 {found.source_sha256[:12]}")
    say(out)
    return 0


@contextmanager
def _stopping(source: "Source") -> Iterator[Callable[[], bool]]:
    """Ctrl-C stops after the batch in hand; with a source that cannot be read again there is nothing to keep, and it
    stops at once. Interrupted says what is left.
    """
    from artifact.runs.stop import stopping

    try:
        with stopping(source.resumable) as stop:
            yield stop
    except KeyboardInterrupt:
        kept = "the last checkpoint stays, and the same command goes on from there"
        lost = f"{source.name} cannot be read again, so nothing is kept; give a file to go on with it"
        raise Interrupted(f"stopped at once; {kept if source.resumable else lost}") from None


def _layers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise SettingError(f"layers {text[:60]!r} are not numbers; give such as 13,14") from None


def _texts(show: Display, samples: int) -> Callable[[int, int], None]:
    """What the collection calls with the texts and tokens that it has read."""
    bar, before = show.bar("moments"), -1

    def tell(texts: int, tokens: int) -> None:
        nonlocal before
        if before < 0 < texts:
            show.say(f"moments: going on after {texts} texts, {tokens} tokens")
        before = texts
        bar.at(tokens, None, lambda rate: f"{texts}/{samples} texts, {tokens} tokens, {rate:.0f} tokens/s")

    return tell
