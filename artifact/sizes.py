"""One way to write a size in bytes for a person."""


def size_words(size: float) -> str:
    """Bytes in GB with one decimal, below 0.1 GB in MB (both decimal, as disks and downloads are sold)."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
