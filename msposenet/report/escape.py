"""Text from files made harmless: for a terminal and for HTML."""

from __future__ import annotations

import html


def printable(value: object) -> str:
    """`value` on one line; what would move the cursor, turn the writing direction or is no character is spelled out."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(value))


def text(value: object) -> str:
    """`value` for the text or an attribute of an HTML page."""
    return html.escape(printable(value), quote=True)
