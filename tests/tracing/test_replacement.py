"""Donors, means, directions and metrics of a trace: golden numbers (1e-5), transformers' own models, and data sets."""

import json
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from artifact.errors import PromptError, SettingError
from artifact.facts.fact import Statement
from artifact.lm.device import Memory
from artifact.lm.load import LanguageModel
from artifact.tracing.choices import METRICS
from artifact.tracing.corruption import corrupt_words, mean_word, noise
from artifact.tracing.replacement import donor_prompt, find_donors, mean_of
from artifact.tracing.sweep import Swept, sweep
from artifact.tracing.trace import TraceSettings, trace, trace_all

REFERENCE = Path(__file__).parent.parent / "reference"
GOLDEN = sorted((REFERENCE / "str_trace").glob("*.npz"))
FRANCE = Statement(0, "The capital of France is", "France", "The capital of {}")
KINDS: dict[str, dict] = {"state": {}} | {
    f"{kind}_w{window}": {"kind": kind, "window": window} for kind in ("mlp", "attn") for window in (1, 3)
}


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_golden(file: Path, tiny) -> None:
    golden, decoder = np.load(file), tiny(file.stem.split("_")[0]).decoder
    ids, donor = golden["clean_input_ids"].tolist(), golden["corrupt_input_ids"].tolist()
    span = golden["differing_positions"].tolist()
    for name, words in KINDS.items():
        cells = TraceSettings(1.0, corruption="replace", **words).cells(decoder.layers, donors=1)
        found = sweep(decoder, [ids], [span], cells, Memory(10**9), [[donor]])
        assert (found.answer_F, found.foil_F) == ([golden["answer_id"]], [[golden["corrupt_answer_id"]]])
        for metric, key, at, atol in (("p", "prob", 0, 1e-5), ("ld", "logit_diff", 2, 5e-5)):
            q = METRICS.index(metric)
            assert found.clean_QF[q, 0] == pytest.approx(golden["clean"][at], abs=atol)
            assert found.corrupted_QF[q, 0] == pytest.approx(golden["corrupt"][at], abs=atol)
            np.testing.assert_allclose(found.metrics_QFTL[q, 0], golden[f"{key}_{name}"], rtol=0, atol=atol)
        log_p_TL = found.metrics_QFTL[METRICS.index("logp"), 0]
        np.testing.assert_allclose(log_p_TL, np.log(golden[f"prob_{name}"]), rtol=0, atol=1e-3)


@pytest.mark.parametrize("model", ["tiny-gpt2", "tiny-gptj"])
@pytest.mark.parametrize(("case", "own", "other"), [(0, "France", "Japan"), (15, "LeBron James", "Lionel Messi")])
def test_golden_from_text(model: str, case: int, own: str, other: str, tiny) -> None:
    """A donor is named by its subject, and normalised effects are those of the metric."""
    name = f"{model}_case{case}_from{case + 1}"
    golden = np.load(REFERENCE / "str_trace" / f"{name}.npz")
    prompts = json.loads((REFERENCE / "str_trace" / "index.json").read_text())[name]
    statement = Statement(0, prompts["clean_prompt"], own)
    donors = [donor_prompt(statement, "entity", other)]
    assert donors == [prompts["corrupt_prompt"]]
    found = trace(tiny(model), statement, TraceSettings(1.0, corruption="replace"), donors=donors)
    assert (found.answer, found.foils) == (prompts["answer"], (prompts["corrupt_answer"],))
    np.testing.assert_allclose(found.scores, golden["prob_state"], rtol=0, atol=1e-5)
    ld = found.metrics["ld"]
    normalised = (golden["logit_diff_state"] - golden["corrupt"][2]) / (golden["clean"][2] - golden["corrupt"][2])
    np.testing.assert_allclose(ld.normalised, normalised, rtol=0, atol=5e-5)
    assert found.metrics["p"].scores == found.scores


class Peer:
    """transformers' own tiny model, its outputs kept or replaced by hooks, one whole pass at a time."""

    def __init__(self, name: str) -> None:
        folder = REFERENCE / "models" / name
        self.module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.blocks = self.module.transformer.h

    def logits(self, word_BTD: torch.Tensor, hooks: dict[Any, Callable]) -> torch.Tensor:
        with ExitStack() as stack, torch.no_grad():
            for part, hook in hooks.items():
                stack.enter_context(_removed(part.register_forward_hook(hook)))
            return self.module(inputs_embeds=word_BTD, use_cache=False).logits[:, -1]

    def part(self, site: str, layer: int) -> Any:
        return self.blocks[layer] if site == "hidden" else getattr(self.blocks[layer], site)

    def outputs(self, word_BTD: torch.Tensor, sites: set[str]) -> dict[tuple[str, int], torch.Tensor]:
        """Outputs by site and layer of one pass."""
        kept: dict[tuple[str, int], torch.Tensor] = {}

        def keep(where: tuple[str, int]) -> Callable:
            return lambda _, __, output: kept.update({where: _first(output).clone()})

        wanted = [(site, layer) for site in sorted(sites) for layer in range(len(self.blocks))]
        self.logits(word_BTD, {self.part(*where): keep(where) for where in wanted})
        return kept


def _removed(handle: Any) -> Any:
    stack = ExitStack()
    stack.callback(handle.remove)
    return stack


def _first(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


def _put(values: list[torch.Tensor], token: int) -> Callable:
    def hook(_: Any, __: Any, output: Any) -> Any:
        for value in values:
            _first(output)[:, token] = value[:, token]
        return output

    return hook


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-gptj"])
@pytest.mark.parametrize(
    ("corruption", "direction", "words"),
    [
        ("noise", "restore", {"kind": "mlp", "window": 3}),
        ("noise", "corrupt", {}),
        ("noise", "corrupt", {"kind": "attn", "window": 3}),
        ("noise", "corrupt", {"sever": "mlp"}),
        ("replace", "corrupt", {"kind": "mlp", "window": 2}),
        ("replace", "restore", {"sever": "attn"}),
        ("mean", "restore", {}),
        ("mean", "corrupt", {"kind": "attn", "window": 2}),
    ],
)
def test_every_cell_equals_a_whole_pass_through_transformers(name, corruption, direction, words, tiny) -> None:
    """All metrics of all cells, with two noise samples or donors."""
    decoder, peer = tiny(name).decoder, Peer(name)
    ids, span = [11, 30, 7, 90, 200], [1, 2]
    donors = [[11, 31, 8, 90, 200], [11, 60, 5, 90, 200]]
    settings = TraceSettings(0.4, samples=2, corruption=corruption, direction=direction, **words)
    mean_D = mean_word(decoder, [3, 4, 5])
    cells = settings.cells(decoder.layers, len(donors), mean_D if corruption == "mean" else None)
    found = sweep(decoder, [ids], [span], cells, Memory(10**9), [donors] if corruption == "replace" else None)
    clean_1TD = decoder.words(torch.tensor([ids]))
    if corruption == "noise":
        corrupted_STD = corrupt_words(clean_1TD, span, 0.4, noise(2, len(span), decoder.width))
    elif corruption == "replace":
        corrupted_STD = decoder.words(torch.tensor(donors))
    else:
        corrupted_STD = clean_1TD.clone()
        corrupted_STD[:, span] = mean_D.float()
    clean_STD = clean_1TD.repeat(len(corrupted_STD), 1, 1)
    runs = {"clean": clean_STD, "corrupted": corrupted_STD}
    scored, source = ("corrupted", "clean") if direction == "restore" else ("clean", "corrupted")
    given = peer.outputs(runs[source], {cells.site})
    frozen = peer.outputs(runs[scored], set(cells.severed))
    for token in range(len(ids)):
        for layer in range(decoder.layers):
            hooks = {peer.part(*where): _put([value], token) for where, value in frozen.items()}
            for at in cells.windows[layer]:
                hooks[peer.part(cells.site, at)] = _put([given[cells.site, at]], token)
            _compare(found, (token, layer), peer.logits(runs[scored], hooks))
    _compare(found, "clean", peer.logits(runs["clean"], {}))
    _compare(found, "corrupted", peer.logits(runs["corrupted"], {}))


def _compare(found: Swept, cell: Any, logits_SV: torch.Tensor) -> None:
    """The metrics of a cell, or of a whole run, with what a pass gives."""
    (answer,), (foils,) = found.answer_F, found.foil_F
    foil_S1 = torch.tensor(foils * (len(logits_SV) // len(foils)))[:, None]
    log_SV = logits_SV.log_softmax(-1)
    above_S = log_SV[:, answer] - log_SV.gather(1, foil_S1)[:, 0]
    expected = [float(one.mean()) for one in (log_SV[:, answer].exp(), log_SV[:, answer], above_S)]
    ours = found.metrics_QFTL[:, 0, *cell] if isinstance(cell, tuple) else getattr(found, f"{cell}_QF")[:, 0]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=5e-5)


def test_facts_together_are_each_alone_and_ends_are_known(model: LanguageModel) -> None:
    """In the direction `corrupt` the last token's last state gives the corrupted run; batches change nothing."""
    others = [("Japan", "Italy"), ("France",), ("Italy", "France")]
    statements = [Statement(n, f"The capital of {s} is", s) for n, s in enumerate(("France", "Japan", "Egypt"))]
    donors = [[donor_prompt(one, "entity", d) for d in names] for one, names in zip(statements, others, strict=True)]
    settings = TraceSettings(1.0, corruption="replace", direction="corrupt")
    together = trace_all(model, statements, settings, donors=donors)
    for one, statement, prompts in zip(together, statements, donors, strict=True):
        alone = trace(model, statement, settings, Memory(1), prompts)
        assert len(one.foils) == len(prompts) and one.foils == alone.foils
        for metric in METRICS:
            measured = one.metrics[metric]
            np.testing.assert_allclose(measured.scores, alone.metrics[metric].scores, rtol=0, atol=2e-5)
            assert measured.scores[-1][-1] == pytest.approx(measured.corrupted, abs=2e-5)
            assert measured.scores[0][0] == pytest.approx(measured.clean, abs=2e-5)


def test_what_is_missing_is_said(model: LanguageModel) -> None:
    with pytest.raises(PromptError, match="has no donor to replace its tokens"):
        trace(model, FRANCE, TraceSettings(1.0, corruption="replace"))
    with pytest.raises(SettingError, match="mean needs an embedding"):
        trace(model, FRANCE, TraceSettings(1.0, corruption="mean"))
    replaced = TraceSettings(1.0, corruption="replace")
    for donor, says in (("Saudi Arabia", "has 6 tokens and the traced one 5"), ("France", "is the traced one")):
        with pytest.raises(PromptError, match=says):
            trace(model, FRANCE, replaced, donors=[donor_prompt(FRANCE, "entity", donor)])
    with pytest.raises(PromptError, match="not to be corrupted"):
        trace(model, FRANCE, replaced, donors=["The capital of France was"])
    with pytest.raises(PromptError, match="does not hold {} once"):
        donor_prompt(FRANCE, "relation", "The language is")
    assert donor_prompt(FRANCE, "relation", "The language of {} is") == "The language of France is"
    statements = [FRANCE, Statement(1, "Spain is", "France")]  # the second cannot be asked
    assert torch.equal(mean_of(model, statements, "entity"), mean_word(model.decoder, model.tokens.ids(" France")))


def test_donors_of_a_data_set(tiny) -> None:
    """Other subjects of the same wording, or other relations of the same subject, or the reason that there is none."""

    def capital(case: int, subject: str, answer: str | None) -> Statement:
        return Statement(case, f"The capital of {subject} is", subject, None, answer, "P36")

    statements = [
        capital(0, "France", "Paris"),
        capital(1, "Japan", "Tokyo"),
        capital(2, "Italy", "Rome"),
        capital(3, "Saudi Arabia", "Riyadh"),
        capital(4, "Egypt", "Paris"),
        Statement(5, "The capital of France was", "France", None, "Lyon", "P36"),
        Statement(6, "The language of France is", "France", None, "French", "P37"),
        Statement(7, "It is", "France"),
    ]
    tokens = tiny("tiny-gpt2").tokens
    found = find_donors(tokens, statements, "entity")
    assert set(found[0]) == {"The capital of Japan is", "The capital of Italy is"}  # Egypt has the same answer
    assert len(found[1]) == 3 and set(find_donors(tokens, statements, "entity", most=1)[1]) < set(found[1])
    assert found == find_donors(tokens, statements, "entity")
    every = find_donors(tokens, statements, "entity", most=None)
    assert all(find_donors(tokens, statements, "entity", most=n)[1] == every[1][:n] for n in range(1, 4))
    reasons = Counter(one for one in found if isinstance(one, str))
    assert reasons["no donor: none has as many tokens before, in and after the subject"] == 1
    assert reasons["no donor: no other subject has this relation and wording"] == 2
    assert sum(reasons.values()) == 4  # and the prompt without its subject
    relation = find_donors(tokens, statements, "relation")
    assert relation[0] == ("The language of France is",)
    assert set(relation[6]) == {"The capital of France is", "The capital of France was"}
    assert relation[1] == "no donor: no other relation of this subject is known"
    alone = [capital(0, "France", None), Statement(1, "The language of France is", "France", None, None, "P37")]
    assert find_donors(tokens, alone, "relation")[0] == "no donor: none has another known answer"
