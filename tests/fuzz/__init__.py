"""Hostile and odd inputs, drawn from a seed, for every command that reads them: `nox -s fuzz`.

A case is a pristine command that worked and one file, word or server of it that was damaged. What must hold of every case stands
in judge.py. `python -m tests.fuzz --seed N --only KIND --case K --keep` repeats one and keeps its folders.
"""
