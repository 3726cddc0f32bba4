"""Text from elsewhere, made fit to be shown: nothing in it can move the cursor, forge a line or hide the rest."""

from __future__ import annotations

__all__ = ["MOST_SHOWN", "shown", "words_of"]

MOST_SHOWN = 1024  # characters of one text; both ends of a longer one are enough to know it by


def shown(text: str, most: int = MOST_SHOWN, *, keep: str = "") -> str:
    r"""Return text with everything escaped that does not print, and its middle left out where it is long.

    Args:
        text: From the wire, an exception, a user.
        most: Characters of the text that are kept; escapes add some.
        keep: Characters that stay as they are although they do not print, such as a newline.

    Example:
        >>> shown("done\r\nERROR \x1b[2J")
        'done\\r\\nERROR \\x1b[2J'
    """
    if len(text) > most:
        half = most // 2
        text = f"{text[:half]} ... {len(text) - 2 * half:,} characters left out ... {text[-half:]}"
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in keep else _escaped(one) for one in text)


def words_of(error: BaseException) -> str:
    """Return an exception's class and text, whatever its own methods do.

    Example:
        >>> words_of(KeyError("genome"))
        "KeyError: 'genome'"
    """
    try:
        text = str(error)
    except Exception as failure:  # noqa: BLE001 - it may do anything
        text = f"(its text could not be made: {type(failure).__name__})"
    return f"{type(error).__name__}: {shown(text)}" if text else type(error).__name__


def _escaped(one: str) -> str:
    return one.encode("unicode_escape", "surrogatepass").decode("ascii")
