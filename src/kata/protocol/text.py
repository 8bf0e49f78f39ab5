"""Text that a guest wrote, on its way to somebody's terminal."""

from __future__ import annotations


def clean_text(text: str, keep: str = "") -> str:
    """Return `text` with `?` for each character that shows nothing, but for those to `keep`.

    A terminal obeys control characters (ECMA-48): they retitle it, paint over what it showed, or type an answer for its
    user. Those that turn the writing direction make a line look like another one.
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() or character in keep else "?" for character in text)
