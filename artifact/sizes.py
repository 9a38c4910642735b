"""One way to write a size in bytes, a time in seconds, a count and the type of a number for a person."""


def size_words(size: float) -> str:
    """Bytes in GB with one decimal, below 0.1 GB in MB (both decimal, as disks and downloads are sold)."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def count_of(count: int, noun: str) -> str:
    """A count with its noun: `1 fact`, `1,209 facts`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def dtype_word(dtype: object) -> str:
    """A torch type by its bare name, such as float32."""
    return str(dtype).removeprefix("torch.")


def hours(seconds: float) -> str:
    """Seconds as hours, to a hundredth where there are few."""
    return f"{seconds / 3600:.2f}" if seconds < 360_000 else f"{seconds / 3600:.0f}"


def spell(seconds: float) -> str:
    """Seconds in the unit that a person would use."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}" if seconds < 20 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
