"""What a host says in its answer, checked before it is used, and whether a failure is worth another try."""

import http.client
import ssl
import time
import urllib.error
from contextlib import closing
from email.utils import parsedate_to_datetime
from typing import NoReturn

from artifact.io import fit, reason
from artifact.reading import whole_number

_TRY_LATER = {408, 425, 429}


class Refused(Exception):
    """This URL will not give the file; the next one may."""


class Again(Exception):
    """It may work in a moment, after `wait` seconds if the host said so."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def failed(error: Exception, stall_seconds: float) -> NoReturn:
    """Raise Again for an error that is worth another try, or an answer that is, and Refused for another."""
    if isinstance(error, urllib.error.HTTPError):
        with closing(error):
            if error.code == 416:
                raise Again("has no such part") from None
            if error.code in _TRY_LATER or error.code >= 500:
                raise Again(f"answers {error.code}", _retry_after(error.headers.get("Retry-After"))) from None
            also = " and redirects without end or aim" if 300 <= error.code < 400 else ""
            raise Refused(f"answers {error.code}{also}") from None
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        raise Refused(f"its certificate cannot be verified ({cause.verify_message})") from None
    if isinstance(cause, TimeoutError):
        raise Again(f"silent for {stall_seconds:g} s") from None
    raise Again(reason(cause) if isinstance(cause, BaseException) else fit(str(cause))) from None


def _retry_after(text: str | None) -> float | None:
    """Seconds from a Retry-After header, which is a number or a date."""
    if text is None:
        return None
    if (seconds := number(text)) is not None:
        return float(seconds)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError, OSError):
        return None


def number(text: str) -> int | None:
    """A number that a header gives; None for anything else."""
    return whole_number(text.strip())


def extent(response: http.client.HTTPResponse, asked: int) -> tuple[int, int | None]:
    """Where the body begins, when it was asked to begin at `asked`, and the whole length, if the host gives it.

    A host without ranges answers with the whole. Raises Refused for another part, or a length that is not a number.
    """
    if response.status == 206:
        told = response.headers.get("Content-Range", "")
        words = told.removeprefix("bytes ").partition("/")
        total = number(words[2])
        if number(words[0].partition("-")[0]) != asked or (total is None and words[2] != "*"):
            raise Refused(f"answers with another range ({fit(told, 60)}) than was asked for")
        return asked, total
    if response.status != 200:
        raise Refused(f"answers {response.status}")
    length = response.headers.get("Content-Length")
    if length is not None and number(length) is None:
        raise Refused(f"tells a length that is not a number ({fit(length, 60)})")
    return 0, None if length is None or response.chunked else number(length)


def validator_of(response: http.client.HTTPResponse) -> str | None:
    """What tells this version of the file from another: a strong ETag, else the date of its last change.

    None where that could not be sent back.
    """
    etag = response.headers.get("ETag")
    told = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
    return told if told and can_be_sent(told) else None


def can_be_sent(validator: str) -> bool:
    """Whether it can stand in a header."""
    return validator.isascii() and validator.isprintable() and len(validator) <= 1000
