"""Which bundle a slot runs with, and the stage store as it must be when that slot boots.

Rules:

* Staging writes both onto the slot itself: into the record, and into ``abboot/forklift-stage-store.yml``.
* A slot that runs is never written (G4).  What a container-only update changes is kept beside the store, one small file
  a slot, ``abboot-slot-a.json`` and ``abboot-slot-b.json``.  It counts only for the record that it names: whoever
  stages that slot anew has made it worthless, also where nobody removed it.
* One file a slot, each replaced in one step and synced: a trial of one slot never costs what the other one is bound to.
* Forklift looks at nothing in its folder but its own file and folders with numbers for names (``FSStageStore.List``,
  Forklift 0.8.0), so these files may lie there.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import attrs

from abboot.core.canonical import dump_json, is_sha256, load_json, one_line
from abboot.core.words import Slot
from abboot.errors import Damaged, NewerFormat
from abboot.forklift.bundle import Bundle
from abboot.linux.sysroot import device_error, read_small

FORMAT = 1
READABLE_FROM = 1
MAX_SIZE = 2 * 1024 * 1024  # bytes
MAX_INDEX = 2**53 - 1  # what every reader of JSON keeps

_TEXTS = ("pallet", "version")
_TEXT_MAX = 200  # bytes of JSON


@attrs.frozen(kw_only=True)
class Binding:
    """A slot, the staging that it holds, and the bundle that runs with it.

    Args:
        slot: which one.
        record_digest: of the record for which this counts.
        bundle: the index of the bundle.
        sha256: of the bundle's ``forklift-bundle.yml``.
        payload: the boot payload of the slot; ``None`` for a slot that was never staged from a bundle and does not have
            the boot files of this one: then no other bundle is known to fit.
        pallet: the path of the pallet.
        version: of the pallet.
        store: the text of the stage store for this slot; empty where it could not be read.
    """

    slot: Slot
    record_digest: str
    bundle: int
    sha256: str
    payload: str | None
    pallet: str = ""
    version: str = ""
    store: bytes = attrs.field(default=b"", repr=False)

    def fits(self, bundle: Bundle) -> bool:
        """Whether this slot may run with ``bundle``."""
        if self.payload is None:
            return self.is_of(bundle)
        return bundle.whole and bundle.payload == self.payload

    def is_of(self, bundle: Bundle) -> bool:
        """Whether ``bundle`` is the very one that this slot is bound to, and whole.

        The digest of its ``forklift-bundle.yml`` does not tell alone: that has no checksums, and two bundles of a
        pallet with uncommitted changes have the same one, whatever files they bring.
        """
        same = bundle.whole and bundle.index == self.bundle and bundle.sha256 == self.sha256
        return same and self.payload in (None, bundle.payload)


def to_record(bundle: Bundle, store: bytes, added: bytes) -> dict[str, Any]:
    """What a record says of the bundle that was staged (``Record.forklift``).

    Args:
        bundle: a whole one.
        store: the text that goes onto the slot beside it.
        added: likewise, the list of files that only the bundle brought.
    """
    return {
        "bundle": bundle.index,
        "sha256": bundle.sha256,
        "payload": bundle.payload,
        "pallet": bundle.pallet,
        "version": bundle.version,
        "clean": bundle.clean,
        # The record's digest names this staging: it has to cover what lies beside the record as well.
        "store_sha256": hashlib.sha256(store).hexdigest(),
        "added_sha256": hashlib.sha256(added).hexdigest(),
    }


def from_record(slot: Slot, record_digest: str, fields: Mapping[str, Any] | None, store: bytes) -> Binding | None:
    """What the slot itself says; ``None`` where it was not staged from a bundle, or says it so that nobody can tell.

    Args:
        slot: which one.
        record_digest: of its record.
        fields: ``Record.forklift``.
        store: the text that was found beside the record; one that is not the record's own does not count.
    """
    if fields is None:
        return None
    if hashlib.sha256(store).hexdigest() != fields.get("store_sha256"):
        store = b""
    try:
        return _binding(slot, record_digest, fields, store)
    except Damaged:
        return None


def read_binding(folder: str, slot: Slot) -> Binding | None:
    """What is kept beside the store in ``folder``; ``None`` if there is nothing, or nothing that can be read."""
    path = _path(folder, slot)
    data = read_small(path, MAX_SIZE + 1)
    if data is None or len(data) > MAX_SIZE:
        return None
    try:
        fields = load_json(data, path)
        if not _is_readable(fields):
            raise NewerFormat(f"cannot read {path}: a newer abboot wrote it")
        store = fields.get("store")
        if fields.get("slot") != slot or not isinstance(store, str) or not is_sha256(fields.get("record_digest")):
            raise Damaged(f"cannot read {path}: it is not about slot {slot}")
        return _binding(slot, fields["record_digest"], fields, store.encode())
    except Damaged:
        return None


def write_binding(folder: str, binding: Binding) -> bool:
    """Keep it beside the store, durably; says whether anything changed.

    Raises:
        DeviceError: it could not be written, or not be synced; what was there before is there, or the new one.
    """
    path = _path(folder, binding.slot)
    fields = attrs.asdict(binding)
    fields |= {"format": FORMAT, "readable_from": READABLE_FROM, "store": binding.store.decode()}
    data = dump_json(fields, indent=1) + b"\n"
    if read_small(path, MAX_SIZE + 1) == data:
        return False
    temporary = f"{path}.new"
    try:
        # The folder may belong to a user: never through a link that lies there.
        if os.path.lexists(temporary):
            os.unlink(temporary)  # left by a cut between the next line and the rename
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        # A cut before this leaves the old one, after it the new one: whole, since its data is on the medium.
        os.replace(temporary, path)
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise device_error("write", path, error, "run as root; the disk may be full") from error
    return True


def _path(folder: str, slot: Slot) -> str:
    return os.path.join(folder, f"abboot-slot-{slot}.json")


def _is_readable(fields: Mapping[str, Any]) -> bool:
    since = fields.get("readable_from")
    return type(since) is int and 1 <= since <= FORMAT


def _binding(slot: Slot, record_digest: str, fields: Mapping[str, Any], store: bytes) -> Binding:
    index, payload = fields.get("bundle"), fields.get("payload")
    if type(index) is not int or not 1 <= index <= MAX_INDEX:
        raise Damaged("cannot read what a slot is bound to: it names no bundle")
    if not is_sha256(fields.get("sha256")) or not (payload is None or is_sha256(payload)):
        raise Damaged("cannot read what a slot is bound to: a digest is missing")
    texts = {name: one_line(str(fields.get(name) or ""), _TEXT_MAX) for name in _TEXTS}
    return Binding(
        slot=slot,
        record_digest=record_digest,
        bundle=index,
        sha256=fields["sha256"],
        payload=payload,
        store=store,
        **texts,
    )
