"""Hostile and odd inputs, drawn from a seed, for every command that reads them: `nox -s fuzz`.

A case is a command that worked, with one file, word or server of it damaged. What must hold of every case stands in
judge.py. `python -m tests.fuzz --seed N --only KIND --case K --keep` repeats one and keeps its folders.
"""
