"""kloc trace: causal tracing of one prompt."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from artifact.cli.app import ANY_MACHINE, AS_RELEASED, Following, Machine, Model, check_outputs, write_json
from artifact.editing.protocol import Protocol, corrected_switches
from artifact.errors import SettingError
from artifact.facts.fact import Perspective, Statement
from artifact.facts.records import read_statements
from artifact.facts.subject import subject_start
from artifact.sizes import count_of
from artifact.terminal import say
from artifact.tracing.choices import Corruption, Direction, Metric, RelationSpan
from artifact.tracing.edges import scaled_window
from artifact.tracing.kinds import KindWord, SeverWord

if TYPE_CHECKING:
    from torch import Tensor

    from artifact.lm.load import LanguageModel
    from artifact.tracing.trace import Measured, Trace, TraceSettings


@Parameter(name="*")
@dataclass(frozen=True)
class TraceOptions:
    """What is corrupted and how, what is restored, and what is printed of it."""

    corrupt: Annotated[Perspective, Parameter(help="Corrupt the subject's tokens (entity) or the relation's.")] = (
        "entity"
    )
    kind: Annotated[KindWord, Parameter(help="Restore block outputs, or a module's outputs in a window.")] = "hidden"
    window: Annotated[int, Parameter(help="Layers restored together, for mlp and attn.")] = 10
    relation_span: Annotated[
        RelationSpan,
        Parameter(help="Relation tokens: all but the subject, those after it, or those of the template."),
    ] = "all"
    template: Annotated[
        str | None,
        Parameter(
            help="The prompt's wording with {} for the subject: for --relation-span template, and where the prompt "
            "names the subject twice."
        ),
    ] = None
    samples: Annotated[int, Parameter(help="Noise samples.")] = 10
    noise: Annotated[str, Parameter(help="s3 (three standard deviations of the subjects' embeddings) or a number.")] = (
        "s3"
    )
    facts: Annotated[Path | None, Parameter(help="Fact file whose subjects give s3 (default: the built-in facts).")] = (
        None
    )
    corruption: Annotated[
        Corruption,
        Parameter(help="Add noise, replace the tokens by a donor's, or replace their embeddings by the facts' mean."),
    ] = "noise"
    donor: Annotated[
        list[str],
        Parameter(
            consume_multiple=1,
            help="For --corruption replace, once or more: another subject of as many tokens; with --corrupt relation, "
            "another wording with {} for the subject.",
        ),
    ] = field(default_factory=list)
    direction: Annotated[
        Direction, Parameter(help="Put clean values into the corrupted run, or corrupted values into the clean run.")
    ] = "restore"
    metric: Annotated[
        Metric, Parameter(help="What is printed: the answer's probability, its logarithm, or its logit minus a foil's.")
    ] = "p"
    screen: Annotated[
        bool, Parameter(help="Approximate all cells too, by attribution patching, and say how well the ranks agree.")
    ] = False
    sever: Annotated[SeverWord | None, Parameter(help="Freeze this module's outputs at the token, corrupted.")] = None

    def donors(self, statement: Statement) -> list[str]:
        """The donors' prompts; SettingError where they and the corruption do not go together."""
        from artifact.tracing.replacement import donor_prompt

        if (self.corruption == "replace") != bool(self.donor):
            raise SettingError("--corruption replace and --donor need each other; give both, or neither")
        return [donor_prompt(statement, self.corrupt, one) for one in self.donor]

    def settings(self, followed: Protocol) -> "TraceSettings":
        """The settings of the trace, before s3 is known; SettingError for values that are of no use."""
        from artifact.runs.noise import noise_number
        from artifact.tracing.trace import TraceSettings

        return TraceSettings(
            1.0 if self.noise == "s3" else noise_number(self.noise),
            self.kind,
            self.window,
            self.samples,
            self.sever,
            followed.severed_fresh_noise,
            self.corrupt,
            self.relation_span,
            self.corruption,
            self.direction,
        )


_OPTIONS = TraceOptions()


def trace(
    *,
    model: Model,
    prompt: Annotated[str, Parameter(help="The prompt to trace.")],
    subject: Annotated[str, Parameter(help="The subject, as it stands in the prompt.")],
    options: TraceOptions = _OPTIONS,
    machine: Machine = ANY_MACHINE,
    following: Following = AS_RELEASED,
    json_file: Annotated[Path | None, Parameter(name="--json", help="Write the scores here.")] = None,
    figure: Annotated[Path | None, Parameter(help="Draw the heat map of effects here (.pdf, .svg or .png).")] = None,
) -> int:
    """Causal tracing of one prompt: the answer's probability with each token's state restored in each layer."""
    from artifact.tracing.trace import trace as trace_fact

    followed = following.followed
    if figure is not None:
        from artifact.reporting.figures import figure_form

        figure_form(figure)
    check_outputs({"--json": json_file, "--figure": figure}, (options.facts, model))
    subject_start(prompt, subject, options.template)  # before the model is loaded
    statement = Statement(0, prompt, subject, options.template)
    donors = options.donors(statement)
    known = read_statements(options.facts) if options.facts else None
    settings = options.settings(followed)
    loaded, budget = machine.load(model, followed.tf32)
    settings, mean_D, corrupted_by = _corrupted(loaded, settings, options, known, len(donors))
    found = trace_fact(loaded, statement, settings, budget, donors, mean_D)
    shown = found.metrics[options.metric]
    result = _result(loaded, found, settings, options, donors, followed)
    screened: list[str] = []
    if options.screen:
        result["screen"], line = _screened(loaded, statement, settings, options.metric, donors, mean_D, shown)
        screened.append(line)
    write_json(json_file, result)
    said = f"{corrupted_by}, protocol {followed.words}"
    for line in (*_head(found, settings, options.metric, said), *_cells(found, settings, options.metric), *screened):
        say(line)
    if figure is not None:
        from artifact.reporting.figures import trace_figure

        trace_figure(result, figure)
    return 0


def _corrupted(
    loaded: "LanguageModel",
    settings: "TraceSettings",
    options: TraceOptions,
    known: Sequence[Statement] | None,
    donors: int,
) -> "tuple[TraceSettings, Tensor | None, str]":
    """The settings with the level of their noise, the embedding that a mean puts in, and the corruption in words."""
    from artifact.facts.datasets import built_in_for
    from artifact.runs.noise import noise_level
    from artifact.tracing.replacement import mean_of

    source = options.facts or built_in_for(loaded.name).source
    if settings.corruption == "mean":
        known = known or built_in_for(loaded.name).statements
        mean_D = mean_of(loaded, known, settings.perspective, settings.relation_span)
        return settings, mean_D, f"mean embedding of the corrupted tokens of {source}"
    if settings.corruption == "replace":
        return settings, None, f"replaced by {count_of(donors, 'donor')}"
    level = noise_level(options.noise, loaded, [one.subject for one in known] if known else None)
    origin = f"s3 over the subjects of {source}" if options.noise == "s3" else "as given"
    words = f"noise {level:.4f} ({origin}), {settings.samples} samples"
    return replace(settings, noise_level=level), None, words


def _result(
    loaded: "LanguageModel",
    found: "Trace",
    settings: "TraceSettings",
    options: TraceOptions,
    donors: Sequence[str],
    followed: Protocol,
) -> dict[str, Any]:
    """What --json keeps, and a figure is drawn from."""
    shown, noisy = found.metrics[options.metric], settings.corruption == "noise"
    return {
        "tokens": found.tokens,
        "subject": found.subject,
        "span": found.span,
        "answer": found.answer,
        "clean": shown.clean,
        "corrupted": shown.corrupted,
        "scores": shown.scores,
        "kind": settings.kind,
        "window": settings.window if settings.trace_kind.windowed else None,
        "sever": settings.sever,
        "noise": settings.noise_level if noisy else None,
        "samples": settings.samples if noisy else len(donors) or 1,
        "corruption": settings.corruption,
        "donors": donors,
        "direction": settings.direction,
        "metric": options.metric,
        "foils": found.foils,
        "metrics": {name: {**asdict(one), "normalised": one.normalised} for name, one in found.metrics.items()},
        "corrupt": settings.perspective,
        "protocol": followed.name,
        "corrected": corrected_switches(followed.name, followed.switches()),
        "model": loaded.name,
        "revision": loaded.revision,
    }


def _head(found: "Trace", settings: "TraceSettings", metric: Metric, said: str) -> Iterator[str]:
    """What was done, and the answer without any restoration."""
    shown = found.metrics[metric]
    window, layers = settings.window, len(shown.scores[0])
    if settings.trace_kind.windowed and 2 * window > layers:
        yield (
            f"a window of {window} layers spans most of this model's {layers}, so cells hardly differ; the paper's "
            f"share of the depth is --window {scaled_window(layers, 10)}"
        )
    yield said
    if settings.direction == "corrupt":
        yield "corrupted values are put into the clean run"
    if metric != "p":
        foils = f" minus that of {', '.join(map(repr, found.foils))}" if metric == "ld" else ""
        yield f"metric {metric}: the answer's {'logit' if metric == 'ld' else 'log probability'}{foils}"
    yield f"answer {found.answer!r}: clean {shown.clean:.4f}, corrupted {shown.corrupted:.4f}"


def _cells(found: "Trace", settings: "TraceSettings", metric: Metric) -> Iterator[str]:
    """The table of all cells: a line for each token, a column for each layer."""
    scores = found.metrics[metric].scores
    put, columns = "restored" if settings.direction == "restore" else "corrupted", settings.trace_kind.layer_words
    yield f"the answer's {metric} with one state {put}; *: a corrupted token; columns: {columns}"
    yield f"{'':>17} " + " ".join(f"{layer:>5}" for layer in range(len(scores[0])))
    for position, (token, row) in enumerate(zip(found.tokens, scores, strict=True)):
        mark = "*" if position in found.span else " "
        yield f"{token!r:>16}{mark} " + " ".join(f"{score:.3f}" for score in row)


def _screened(
    loaded: "LanguageModel",
    statement: Statement,
    settings: "TraceSettings",
    metric: Metric,
    donors: Sequence[str],
    mean_D: "Tensor | None",
    exact: "Measured",
) -> tuple[dict[str, Any], str]:
    """The approximate effects for a file, and how well their ranks agree with the exact ones, in words."""
    import numpy as np

    from artifact.tracing.attribution import rank_correlation
    from artifact.tracing.trace import screen

    found_TL = screen(loaded, statement, settings, metric, donors, mean_D)
    untouched = exact.clean if settings.direction == "corrupt" else exact.corrupted
    rho = rank_correlation(found_TL, np.array(exact.scores) - untouched)
    words = "not defined, as one of them is all alike" if np.isnan(rho) else f"{rho:.2f}"
    line = f"screen: attribution patching over {found_TL.size} cells, rank correlation with the exact ones {words}"
    return {"effects": found_TL.tolist(), "rank_correlation": None if np.isnan(rho) else rho}, line
