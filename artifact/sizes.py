"""One way to write a size in bytes, and the type of a number, for a person."""


def size_words(size: float) -> str:
    """Bytes in GB with one decimal, below 0.1 GB in MB (both decimal, as disks and downloads are sold)."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def dtype_word(dtype: object) -> str:
    """A torch type by its bare name, such as float32."""
    return str(dtype).removeprefix("torch.")
