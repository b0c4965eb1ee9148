"""What can go wrong, in words for the person who reads it at 3 a.m.

The sentence is ``cannot <verb> <object>: <what was found>``, lower case, no full stop; the hint says what to do.
A subclass exists only where a caller would do something different.
"""

from __future__ import annotations


class AbbootError(Exception):
    """Something could not be done; nothing was left half done.

    Args:
        message: ``cannot <verb> <object>: <what was found>``.
        hint: what the reader can do about it; empty if there is nothing.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class Refused(AbbootError):
    """The phase, or a guarantee, forbids this verb now.  The device is as it was."""


class Locked(AbbootError):
    """Another abboot is changing this disk.  Try again later (exit code 75)."""


class Damaged(AbbootError):
    """A disk, a volume or a file is not what its format says: truncated, inconsistent or hostile."""


class NewerFormat(Damaged):
    """A newer abboot wrote this, and says that this one cannot read it (G8).  Nothing older may be acted on instead."""


class InvalidTree(AbbootError):
    """A boot tree cannot be put on this slot as it is: a name, a collision, a link, or too much of it."""


class VerificationFailed(AbbootError):
    """What was read back from the medium is not what was written.  The slot stays invalid (G2)."""


class DeviceError(AbbootError):
    """The operating system refused or failed a read, a write, a flush or a reboot."""


class ConfigError(AbbootError):
    """A configuration file or an image specification is wrong; the message names the file and the line."""
