"""The kinds of causal trace in one table: what each restores and blocks, its words, its figure and its look there.

A new kind is one more entry of TRACE_KINDS: plans, the sweep, the command line, charts, tables and estimates read it
here. Commands and run.json name a kind by two words, `kind` and `sever`; charts and expected/ by its name. No torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from artifact.errors import SettingError
from artifact.sizes import count_of
from artifact.tracing.windows import around

TracedSite = Literal["hidden", "mlp", "attn"]
"""The sites of lm/decoder.py that a trace restores or severs: a block's output, or its MLP's or attention's."""
Figure = Literal["figure2", "figure3"]


@dataclass(frozen=True)
class TraceKind:
    """One kind of trace. At the restored token the clean outputs of `site` take the place of the corrupted ones.

    They do so in one layer, or in a window of layers where `windowed`; meanwhile outputs of the `severed` sites stay
    corrupted at that token in every layer.
    """

    name: str
    printed: str
    """What is restored, in words."""
    kind: str
    """The word of --kind and of run.json; with `sever`, that of --sever, it stands for this kind alone."""
    site: TracedSite
    windowed: bool = False
    sever: str | None = None
    severed: tuple[TracedSite, ...] = ()
    figures: tuple[Figure, ...] = ()
    """The paper's figures that show it; a kind without one is in no plan of the paper."""
    line: str = ""
    """Its label in Figure 3, and its colour and line style there."""
    look: tuple[str, str] = ("", "")

    def words(self, window: int) -> str:
        """What is restored, with the window where there is one."""
        return f"{self.printed} of {count_of(window, 'layer')}" if self.windowed else self.printed

    @property
    def layer_words(self) -> str:
        """What an axis of layers counts."""
        return "centre layer of the window" if self.windowed else "layer"

    def windows(self, layers: int, window: int) -> list[range]:
        """The restored layers of every centre layer: itself, or a window about it, cut at both ends of the model."""
        return around(layers, window if self.windowed else 1)


_HIDDEN = TraceKind(
    name="hidden",
    printed="hidden state",
    kind="hidden",
    site="hidden",
    figures=("figure2", "figure3"),
    line="nothing severed",
    look=("#000000", "-"),
)


def _severed(site: TracedSite, words: str, look: tuple[str, str]) -> TraceKind:
    """Hidden states restored while the outputs of one module stay corrupted."""
    name, printed, line = f"severed-{site}", f"{_HIDDEN.printed}, {words} severed", f"{words} severed"
    only: tuple[Figure, ...] = ("figure3",)
    return replace(_HIDDEN, name=name, printed=printed, sever=site, severed=(site,), figures=only, line=line, look=look)


# The colours are Okabe and Ito's, told apart by colour-blind readers; the line styles differ too.
TRACE_KINDS: Mapping[str, TraceKind] = {
    one.name: one
    for one in (
        _HIDDEN,
        TraceKind("mlp", "MLP window", kind="mlp", site="mlp", windowed=True, figures=("figure2",)),
        TraceKind("attn", "attention window", kind="attn", site="attn", windowed=True, figures=("figure2",)),
        _severed("mlp", "MLP", ("#0072B2", "--")),
        _severed("attn", "attention", ("#D55E00", ":")),
    )
}
"""The kinds by name, in the order of plans and figures."""

if TYPE_CHECKING:
    KindName = str
    KindWord = str
    SeverWord = str
else:
    KindName = Literal[tuple(TRACE_KINDS)]
    KindWord = Literal[tuple(dict.fromkeys(one.kind for one in TRACE_KINDS.values()))]
    SeverWord = Literal[tuple(dict.fromkeys(one.sever for one in TRACE_KINDS.values() if one.sever))]


def trace_kind(kind: str, sever: str | None) -> TraceKind:
    """The kind that the two words stand for; SettingError where there is none."""
    for one in TRACE_KINDS.values():
        if (one.kind, one.sever) == (kind, sever):
            return one
    known = ", ".join(_options(one.kind, one.sever) for one in TRACE_KINDS.values())
    raise SettingError(f"{_options(kind, sever)} is not a kind of trace; give one of {known}")


def _options(kind: str, sever: str | None) -> str:
    return f"--kind {kind}" + (f" --sever {sever}" if sever else "")
