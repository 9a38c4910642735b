"""kloc figures: a run's figures for a paper, and one line for what cannot be drawn."""

from pathlib import Path

import cheap
import pytest

from artifact.cli import call


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cheap.run(tmp_path_factory.mktemp("figures") / "run")


def test_one_figure_in_the_width_of_a_column(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], drawn: None
) -> None:
    command = ["figures", str(run), "--format", "svg", "--width", "84mm", "--only", "edits-entity"]
    found = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        capsys.readouterr()
        assert call([*command, "--out", str(folder)]) == 0
        assert capsys.readouterr().out.splitlines() == [str(folder / "edits-entity.svg")]
        found.append((folder / "edits-entity.svg").read_bytes())
    assert found[0] == found[1] and b'width="238.1' in found[0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--width", "3"], "--width '3' is not a width of 3 to 20 inches; give one in in, cm, mm or pt"),
        (["--width", "1in"], "is not a width of 3 to 20 inches"),
        (["--width", "99999999999999999999999cm"], "is not a width of 3 to 20 inches"),
        (["--only", "aie-mpl"], "--only 'aie-mpl' is not a figure of this run; it has edits-entity, edits-relation"),
        (["--format", "gif"], "gif"),
        (["--out", "taken"], "cannot be written"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("a file")
    assert call(["figures", str(run), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("kloc: ") and error.count("\n") == 1 and says in error
    assert not (run / "figures").exists() and sorted(tmp_path.iterdir()) == [tmp_path / "taken"]


def test_a_folder_without_a_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["figures", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
