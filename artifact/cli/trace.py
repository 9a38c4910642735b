"""kloc trace: causal tracing of one prompt."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from artifact.cli.app import (
    NO_WORDS,
    Correct,
    Device,
    Dtype,
    Memory,
    Model,
    Protocol,
    app,
    check_outputs,
    load_model,
    memory_budget,
    words,
    write_json,
)
from artifact.errors import SettingError
from artifact.facts.fact import Perspective, Statement, read_statements
from artifact.facts.subject import subject_start
from artifact.terminal import say
from artifact.tracing.kinds import KindWord, SeverWord


@app.command
def trace(
    *,
    model: Model,
    prompt: Annotated[str, Parameter(help="The prompt to trace.")],
    subject: Annotated[str, Parameter(help="The subject, as it stands in the prompt.")],
    corrupt: Annotated[
        Perspective, Parameter(help="Corrupt the subject's tokens (entity) or the relation's.")
    ] = "entity",
    kind: Annotated[KindWord, Parameter(help="Restore block outputs, or a module's outputs in a window.")] = "hidden",
    window: Annotated[int, Parameter(help="Layers restored together, for mlp and attn.")] = 10,
    relation_span: Annotated[
        Literal["all", "after", "template"],
        Parameter(help="Relation tokens: all but the subject, those after it, or those of the template."),
    ] = "all",
    template: Annotated[
        str | None,
        Parameter(
            help="The prompt's wording with {} for the subject: for --relation-span template, and where the prompt "
            "names the subject twice."
        ),
    ] = None,
    samples: Annotated[int, Parameter(help="Noise samples.")] = 10,
    noise: Annotated[
        str, Parameter(help="s3 (three standard deviations of the subjects' embeddings) or a number.")
    ] = "s3",
    facts: Annotated[
        Path | None, Parameter(help="Fact file whose subjects give s3 (default: the built-in facts).")
    ] = None,
    corruption: Annotated[
        Literal["noise", "replace", "mean"],
        Parameter(help="Add noise, replace the tokens by a donor's, or replace their embeddings by the facts' mean."),
    ] = "noise",
    donor: Annotated[
        list[str],
        Parameter(
            consume_multiple=1,
            help="For --corruption replace, once or more: another subject of as many tokens; with --corrupt relation, "
            "another wording with {} for the subject.",
        ),
    ] = NO_WORDS,
    direction: Annotated[
        Literal["restore", "corrupt"],
        Parameter(help="Put clean values into the corrupted run, or corrupted values into the clean run."),
    ] = "restore",
    metric: Annotated[
        Literal["p", "logp", "ld"],
        Parameter(help="What is printed: the answer's probability, its logarithm, or its logit minus a foil's."),
    ] = "p",
    screen: Annotated[
        bool, Parameter(help="Approximate all cells too, by attribution patching, and say how well the ranks agree.")
    ] = False,
    sever: Annotated[SeverWord | None, Parameter(help="Freeze this module's outputs at the token, corrupted.")] = None,
    device: Device = None,
    dtype: Dtype = "float32",
    memory: Memory = None,
    protocol: Protocol = "released",
    correct: Correct = NO_WORDS,
    json_file: Annotated[Path | None, Parameter(name="--json", help="Write the scores here.")] = None,
    figure: Annotated[Path | None, Parameter(help="Draw the heat map of effects here (.pdf, .svg or .png).")] = None,
) -> int:
    """Causal tracing of one prompt: the answer's probability with each token's state restored in each layer."""
    from artifact.editing.protocol import corrected_switches, protocol_of, protocol_words
    from artifact.lm.device import use_tf32
    from artifact.runs.noise import noise_number
    from artifact.tracing.replacement import donor_prompt
    from artifact.tracing.trace import TraceSettings
    from artifact.tracing.trace import trace as trace_fact

    followed = protocol_of(protocol, words(correct))
    if figure is not None:
        from artifact.reporting.figures import figure_form

        figure_form(figure)
    check_outputs({"--json": json_file, "--figure": figure}, (facts, model))
    subject_start(prompt, subject, template)  # before the model is loaded
    statement = Statement(0, prompt, subject, template)
    if (corruption == "replace") != bool(donor):
        raise SettingError("--corruption replace and --donor need each other; give both, or neither")
    donors = [donor_prompt(statement, corrupt, one) for one in donor]
    known = read_statements(facts) if facts else None
    given = 1.0 if noise == "s3" else noise_number(noise)
    settings = TraceSettings(
        given, kind, window, samples, sever, followed.severed_fresh_noise, corrupt, relation_span, corruption, direction
    )
    loaded = load_model(model, device, dtype)
    use_tf32(followed.tf32)
    settings, mean_D, corrupted_by = _corrupted(loaded, settings, noise, facts, known, len(donors))
    budget = memory_budget(memory, str(loaded.decoder.device))
    found = trace_fact(loaded, statement, settings, budget, donors, mean_D)
    shown = found.metrics[metric]
    result = {
        "tokens": found.tokens,
        "subject": found.subject,
        "span": found.span,
        "answer": found.answer,
        "clean": shown.clean,
        "corrupted": shown.corrupted,
        "scores": shown.scores,
        "kind": kind,
        "window": window if settings.trace_kind.windowed else None,
        "sever": sever,
        "noise": settings.noise_level if corruption == "noise" else None,
        "samples": samples if corruption == "noise" else len(donors) or 1,
        "corruption": corruption,
        "donors": donors,
        "direction": direction,
        "metric": metric,
        "foils": found.foils,
        "metrics": {name: {**asdict(one), "normalised": one.normalised} for name, one in found.metrics.items()},
        "corrupt": corrupt,
        "protocol": protocol,
        "corrected": corrected_switches(followed.name, followed.switches()),
        "model": loaded.name,
        "revision": loaded.revision,
    }
    lines: list[str] = []
    if screen:
        result["screen"], line = _screened(loaded, statement, settings, metric, donors, mean_D, shown)
        lines.append(line)
    write_json(json_file, result)
    said = protocol_words(followed.name, followed.switches())
    if settings.trace_kind.windowed and 2 * window > (layers := loaded.decoder.layers):
        say(
            f"a window of {window} layers spans most of this model's {layers}, so cells hardly differ; the paper's "
            f"share of the depth is --window {max(1, round(10 / 48 * layers))}"
        )
    say(f"{corrupted_by}, protocol {said}")
    if direction == "corrupt":
        say("corrupted values are put into the clean run")
    if metric != "p":
        foils = f" minus that of {', '.join(map(repr, found.foils))}" if metric == "ld" else ""
        say(f"metric {metric}: the answer's {'logit' if metric == 'ld' else 'log probability'}{foils}")
    say(f"answer {found.answer!r}: clean {shown.clean:.4f}, corrupted {shown.corrupted:.4f}")
    put = "restored" if direction == "restore" else "corrupted"
    say(f"the answer's {metric} with one state {put}; *: a corrupted token; columns: {settings.trace_kind.layer_words}")
    say(f"{'':>17} " + " ".join(f"{layer:>5}" for layer in range(loaded.decoder.layers)))
    for position, (token, row) in enumerate(zip(found.tokens, shown.scores, strict=True)):
        mark = "*" if position in found.span else " "
        say(f"{token!r:>16}{mark} " + " ".join(f"{score:.3f}" for score in row))
    for line in lines:
        say(line)
    if figure is not None:
        from artifact.reporting.figures import trace_figure

        trace_figure(result, figure)
    return 0


def _corrupted(
    loaded: Any, settings: Any, noise: str, facts: Path | None, known: Sequence[Statement] | None, donors: int
) -> tuple[Any, Any, str]:
    """The settings with the level of their noise, the embedding that a mean puts in, and the corruption in words."""
    from artifact.facts.datasets import built_in_for
    from artifact.runs.noise import noise_level
    from artifact.tracing.replacement import mean_of

    source = facts or built_in_for(loaded.name).source
    if settings.corruption == "mean":
        known = known or built_in_for(loaded.name).statements
        mean_D = mean_of(loaded, known, settings.perspective, settings.relation_span)
        return settings, mean_D, f"mean embedding of the corrupted tokens of {source}"
    if settings.corruption == "replace":
        return settings, None, f"replaced by {donors} donor{'s' if donors > 1 else ''}"
    level = noise_level(noise, loaded, [one.subject for one in known] if known else None)
    origin = f"s3 over the subjects of {source}" if noise == "s3" else "as given"
    words = f"noise {level:.4f} ({origin}), {settings.samples} samples"
    return replace(settings, noise_level=level), None, words


def _screened(
    loaded: Any, statement: Statement, settings: Any, metric: Any, donors: Sequence[str], mean_D: Any, exact: Any
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
