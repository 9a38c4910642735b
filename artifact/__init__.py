"""kloc-artifact: re-run, measure and judge \"Does Knowledge Localization Hold True?\" (CIKM 2024)."""

__version__ = "0.1.0"
