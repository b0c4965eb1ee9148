"""``cmdline.txt``: the one line of words that the firmware hands to the kernel.  No I/O here.

Rules:

* Words are what the kernel takes for words: blanks separate, except inside double quotes, and ``-`` and ``_`` are one
  character in a key (``next_arg`` in lib/cmdline.c, ``parameq`` in kernel/params.c).
* What stands behind a word ``--`` is for init, not for the kernel (``parse_args`` in kernel/params.c): it stays.
* All parameters must be on one line (documentation/asciidoc/computers/configuration, "Kernel command line"), so what is
  written is one line.
"""

from __future__ import annotations

from collections.abc import Mapping

from abboot.core.tree import shown
from abboot.core.words import Slot
from abboot.errors import AbbootError

CMDLINE_PATH = "cmdline.txt"
_BLANKS = " \t\n\v\f\r"


def set_cmdline(text: str, values: Mapping[str, str]) -> str:
    """A kernel command line with ``key=value`` for each of ``values``: in place of the first of that key, or added.

    Further words of the same key are dropped, since the kernel takes the last of most keys.  A value with blanks is
    quoted.  Idempotent: where every word is there already, ``text`` comes back as it is.

    Raises:
        AbbootError: a key or value that cannot be one word of a command line, or a text whose last quote stays open:
            what is added to it would be part of that word.
    """
    for key, value in values.items():
        check_setting(key, value)
    if values and text.count('"') % 2:
        found = f"cannot set {', '.join(values)} in {CMDLINE_PATH}: it has a double quote that is not closed"
        raise AbbootError(found, f"correct {CMDLINE_PATH} in the tree, or on the booted slot")
    words = split_cmdline(text)
    end = words.index("--") if "--" in words else len(words)
    ours, for_init = words[:end], words[end:]
    for key, value in values.items():
        new = f'{key}="{value}"' if any(char in _BLANKS for char in value) else f"{key}={value}"
        at = next((index for index, word in enumerate(ours) if _key(word) == _key(key)), len(ours))
        ours = [*ours[:at], new, *(word for word in ours[at:] if _key(word) != _key(key))]
    return text if [*ours, *for_init] == words else " ".join([*ours, *for_init]) + "\n"


def check_setting(key: str, value: str) -> None:
    """Raises :class:`abboot.errors.AbbootError` where ``key=value`` cannot be one word of a command line."""
    for what, text, forbidden in (("key", key, _BLANKS + '"='), ("value", value, '"')):
        bad = next((char for char in text if char in forbidden or not char.isprintable()), None)
        if bad is not None:
            found = f"cannot set {shown(key)} in {CMDLINE_PATH}: its {what} holds {bad!a}"
            raise AbbootError(found, "a command line is one line of words such as root=LABEL=root")
    if not key or key == "--":
        raise AbbootError(f"cannot set {key!r} in {CMDLINE_PATH}: it is no key", "such as root=LABEL=root")


def split_cmdline(text: str) -> list[str]:
    """The words of a command line, each with its quotes."""
    words: list[str] = []
    word, quoted = "", False
    for char in text:
        if char in _BLANKS and not quoted:
            if word:
                words.append(word)
            word = ""
            continue
        quoted ^= char == '"'
        word += char
    return [*words, word] if word else words


def _key(word: str) -> str:
    """What the kernel compares: in ``"key=a b"`` the quotes may also stand around the whole word."""
    return word.removeprefix('"').partition("=")[0].rstrip('"').replace("-", "_")


def booted_cmdline(bootargs: str, texts: Mapping[Slot, str]) -> Slot | None:
    """The slot whose ``cmdline.txt`` went into the kernel's command line, where the two differ; else ``None``.

    Only the words count that one of them has and the other has not: all of those of one slot are there, and none of the
    other.  The firmware adds words of its own, and changes some, such as ``console=serial0``.
    """
    given = set(split_cmdline(bootargs))
    words = {slot: set(split_cmdline(text.partition("\n")[0])) for slot, text in texts.items()}
    if not all(words.values()):
        return None  # one that cannot be read may say the same as the other
    for slot in Slot:
        own, other = words[slot] - words[slot.other], words[slot.other] - words[slot]
        if own and own <= given and not other & given:
            return slot
    return None
