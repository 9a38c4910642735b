"""Windows of layers, and the groups of rows that share passes while their windows are alike."""

import hypothesis.strategies as st
from hypothesis import given, settings

from artifact.tracing.windows import around, steps


def test_windows_are_cut_at_both_ends() -> None:
    assert around(3, 1) == [range(0, 1), range(1, 2), range(2, 3)]
    assert around(6, 3) == [range(0, 2), range(0, 3), range(1, 4), range(2, 5), range(3, 6), range(4, 6)]
    assert around(2, 100) == [range(0, 2), range(0, 2)]


@settings(max_examples=60, deadline=None)
@given(layers=st.integers(1, 9), window=st.integers(1, 12), after=st.integers(0, 1), data=st.data())
def test_groups_follow_every_window(layers: int, window: int, after: int, data: st.DataObject) -> None:
    """The layers in which a centre's rows are inside are those of its window, but the one passed before it joined."""
    windows = around(layers, window)
    centres = sorted(data.draw(st.sets(st.integers(0, layers - 1), min_size=1)))
    path, group_of = steps(windows, centres, layers, after)
    history: list[list[int]] = []
    for step in path:
        if step.joins:
            history.append([])
        history += [list(history[g]) for g in step.copies]
        assert len(step.inside) == len(history)
        if step.layer < layers:
            for one, inside in zip(history, step.inside, strict=True):
                one += [step.layer] * inside
    assert set(group_of) == set(centres)
    for centre in centres:
        assert history[group_of[centre]] == list(windows[centre])[after:]
    assert len({tuple(windows[c]) for c in centres}) == len(history)  # windows that are the same share rows
