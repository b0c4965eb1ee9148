"""The mutants: one guard of G1 to G7 taken away at a time, as an edit of the source.

Rules:
    1. An edit names text that occurs exactly once in its file.  Text that is gone or is there twice makes the mutant
       *stale*, and a stale mutant is a failure: it has to follow the source.
    2. Where two guards stand behind one another, each alone changes nothing that can be seen; the mutant then has an
       edit for each, and says so.
    3. Each mutant is killed by a test of ``tests/crash``, which knows nothing of the line that is edited: it judges
       what boots, what is on the medium, and in which order it got there.  ``expect`` names the one that is tried first.
    4. A mutant that survives shows that a crash test is too weak.  The test is strengthened, the mutant stays.
"""

from __future__ import annotations

import attrs

MANAGER, PLAN, STATES = "manager.py", "core/plan.py", "core/states.py"
EXECUTE, OBSERVE, REPAIR, SELECTOR = "execute.py", "observe.py", "repair.py", "selector.py"
STAGING, VERIFY, CHECK, WRITE = "staging.py", "verify.py", "fat/check.py", "fat/write.py"


@attrs.frozen
class Edit:
    """``old`` becomes ``new`` in a file below ``abboot/``."""

    file: str
    old: str
    new: str


@attrs.frozen
class Mutant:
    """One guard taken away."""

    name: str
    breaks: str  # the guarantee
    why: str  # what goes wrong without the guard
    expect: str  # the test of tests/crash that is run first
    edits: tuple[Edit, ...]


def mutant(name: str, breaks: str, why: str, expect: str, *edits: tuple[str, str, str]) -> Mutant:
    return Mutant(name, breaks, why, expect, tuple(Edit(*edit) for edit in edits))


# -- tests that are expected to notice --------------------------------------------------------------------------------

CUT = "test_every_cut.py::test_wherever_it_is_cut_a_good_slot_boots_and_the_next_run_ends_the_same"
TORN = "test_every_cut.py::test_a_torn_autoboot_txt_boots_a_good_slot_all_the_same"
KEPT = "test_states.py::test_whatever_the_medium_kept_a_good_slot_boots_and_the_next_run_ends_the_same"
FLUSHED = "test_medium.py::test_what_is_promised_is_flushed"
FLAG = "test_medium.py::test_a_flag_is_set_when_everything_else_is_done"
TOUCHED = "test_medium.py::test_no_slot_is_touched_while_a_warm_reset_would_try_it"
FORGOT = "test_medium.py::test_a_write_that_the_card_forgot_is_noticed"
STUCK = "test_medium.py::test_a_flag_that_cannot_be_cleared_stops_everything_that_would_follow"
UNSTUCK = "test_medium.py::test_nothing_reboots_when_the_flag_does_not_stick"
FIVE = "test_medium.py::test_nothing_touches_the_old_primary_within_five_seconds_of_the_switch"
TRIED = "test_strangers.py::test_what_somebody_else_wrote_is_never_tried"
FIRED = "test_strangers.py::test_what_somebody_else_wrote_over_an_armed_slot_is_not_fired_at"
COMMITTED = "test_strangers.py::test_what_somebody_else_wrote_is_never_committed"
ONLY = "test_strangers.py::test_only_the_trial_that_was_armed_is_committed"
OTHER = "test_strangers.py::test_nothing_is_committed_when_another_slot_than_the_armed_one_runs"
FOREIGN = "test_strangers.py::test_nothing_is_staged_or_tried_from_a_slot_that_is_not_the_primary"
IN_TRIAL = "test_strangers.py::test_a_trial_writes_neither_the_slot_it_runs_from_nor_the_primary"
REPAIRED = "test_strangers.py::test_a_repair_writes_no_slot_that_may_be_running"
UNCOMMITTED = "test_strangers.py::test_a_commit_whose_sector_tore_is_no_commit"
GEOMETRY = "test_strangers.py::test_a_hidden_slot_comes_back_although_the_journal_did_not_know_its_geometry"
MOUNTED = "test_strangers.py::test_a_selector_that_is_mounted_read_only_is_not_written"
BEHIND = "test_strangers.py::test_a_slot_that_is_mounted_is_not_written"
NO_WAY_BACK = "test_strangers.py::test_nothing_is_staged_while_the_primary_is_not_whole"
HEALTH = "test_loops.py::test_a_health_check_never_reboots_outside_of_a_trial"
ATTEMPTS = "test_loops.py::test_a_slot_that_never_comes_up_is_not_tried_for_ever"
FAILED = "test_loops.py::test_a_slot_that_failed_is_not_tried_again_by_itself"
REPAIRS = "test_loops.py::test_repair_at_every_boot_reboots_once"
STRAY = "test_loops.py::test_repair_does_not_follow_a_stray_flag"
OLD = "test_loops.py::test_no_bootloader_reaches_a_slot_on_trial_by_a_cold_boot"

# -- text that occurs in several mutants ------------------------------------------------------------------------------

#: An entry that is drafted and dropped: it is in no plan.
NOWHERE = "_Draft(observation, stamp, draft.newest).append("
CHECK_TRIAL = (
    '    draft.steps.append(CheckFiles("try", slot, digest, '
    "edited_is_fine=draft.newest.slots[slot].state is SlotState.GOOD))\n"
)
FIRE = "    draft.steps += _fire(reboot=reboot)\n    return draft.done()\n\n\ndef _starts_over"
STAGING_ENTRY = """    draft.append(
        Transition.STAGING,"""
STAGED_ENTRY = """    draft.append(
        Transition.STAGED,
        slots=draft.slots_with(
            slot, state=SlotState.STAGED, record_digest=record_digest, generation=generation, **known
        ),
        note=note,
    )
"""
COMMIT_SWITCH = "    draft.steps.append(Switch(before, after))\n    draft.append(\n        Transition.COMMITTED,"
CLEAR_FLAG = """    if observation.flag:
        draft.steps.append(SetFlag(False))
    if observation.pending_argument is not None and "tryboot" in observation.pending_argument:
        draft.steps.append(ClearArgument())
"""
SWITCH_END = """    draft.steps.append(Switch(before, after))
    if show:
        _show(draft, situation, hidden)
"""
HIDE = "        draft.steps.append(Hide(hidden))\n"
STAGE_DISARMS = "    _disarm(draft, situation, attempts, show=False)\n"
OVERWRITE = "            self._device.write(first + differing[0], bytes(written))\n"
READ_BACK = "        if self._device.read(first, end - first) != after:\n"
WRITE_SLOT = """        written += invalidate(self.device, geometry)
        step = progress.begin("writing", _in_place(self.volume))
        written += write_content(self.device, self.volume, self.diff, step)
        self._read_back(progress)
"""
INVALIDATE = """    for offset in geometry.boot_sector_offsets:
        device.write(offset, zeros)
    device.flush()
    device.forget_cache()
"""
VALIDATE = """        device.flush()
        device.forget_cache()
        if device.read(offset, len(boot_sector)) != boot_sector:
"""
REBUILD = """        report = invalidate(device, plan.geometry)
        report += write_content(device, plan, compare(device, plan, None))
"""
RENAME = '''def _rename(device: BlockDevice, volume: FatVolume, first: int, data: bytes) -> tuple[int, int]:
    """As vfat does: the new content into a free cluster, the old one freed, the directory entry pointed at it."""
    geometry = volume.geometry
    old = 2 + (first - geometry.data_start) // geometry.cluster_size
    new = old + 100
    device.write(geometry.cluster_offset(new), data)
    root = bytearray(device.read(geometry.root_dir_start, 512))
    at = root.index(b"AUTOBOOTTXT")
    root[at + 26 : at + 28] = new.to_bytes(2, "little")
    device.write(geometry.root_dir_start, bytes(root))
    fat = bytearray(device.read(geometry.fat_offset(0), 512))
    fat[2 * old : 2 * old + 2], fat[2 * new : 2 * new + 2] = bytes(2), b"\\xff\\xff"
    for copy in range(geometry.fat_count):
        device.write(geometry.fat_offset(copy), bytes(fat))
    return geometry.cluster_offset(new), geometry.cluster_offset(new) + len(data)


def replace_autoboot('''

MUTANTS: tuple[Mutant, ...] = (
    # -- G1: a cold boot reaches a slot that was built in, or committed after a trial ---------------------------------
    mutant(
        "arming points [all] at the slot as well",
        "G1",
        "a power cut in the trial boots the slot that nobody committed",
        f"{CUT}[try b-power cut]",
        (
            PLAN,
            "armed = text_for(observation, primary=primary, trial=slot)",
            "armed = text_for(observation, primary=slot, trial=slot)",
        ),
    ),
    mutant(
        "a damaged file is read as the commit that was meant",
        "G1",
        "repair makes a slot the primary whose switch never happened",
        UNCOMMITTED,
        (
            STATES,
            "    return newest.primary\n",
            "    trial = newest.trial\n    return trial.slot if trial and trial.progress is TrialProgress.COMMITTING else newest.primary\n",
        ),
    ),
    mutant(
        "repair takes the booted slot for the primary",
        "G1",
        "after a damaged file that is partition 2, whatever was committed (H-15)",
        f"{CUT}[repair autoboot.txt-power cut]",
        (
            REPAIR,
            "    primary = situation.primary\n    if primary is None:",
            "    primary = situation.booted or situation.primary\n    if primary is None:",
        ),
    ),
    mutant(
        "the lower slot is not hidden while autoboot.txt is written",
        "G1",
        "a torn autoboot.txt boots partition 2, which is on trial (H-15)",
        f"{TORN}[try a-noise]",
        (PLAN, HIDE, "        pass\n"),
    ),
    mutant(
        "the lower slot is shown before autoboot.txt is written",
        "G1",
        "it is hidden for nothing: a torn autoboot.txt boots it",
        f"{TORN}[try a-noise]",
        (
            PLAN,
            SWITCH_END,
            "    if show:\n        _show(draft, situation, hidden)\n    draft.steps.append(Switch(before, after))\n",
        ),
    ),
    mutant(
        "repair does not hide the lower slot",
        "G1",
        "a cut in a repair boots a slot that was never tried",
        f"{CUT}[repair 63 bytes beside an untried a-power cut]",
        (REPAIR, "return [step] if below is None else [Hide(below), step, Show(below)]", "return [step]"),
    ),
    mutant(
        "leaving a trial of the lower slot writes autoboot.txt",
        "G1",
        "the slot on trial is booted and cannot be hidden: torn, the file boots what is being left",
        "test_medium.py::test_leaving_a_trial_of_the_lower_slot_does_not_write_autoboot_txt",
        (
            PLAN,
            "        if not lower and observation.autoboot.trial not in",
            "        if observation.autoboot.trial not in",
        ),
    ),
    mutant(
        "a bootloader from before A/B boot is armed",
        "G1",
        "it takes every line of autoboot.txt: it cold-boots the armed slot (H-01)",
        OLD,
        (MANAGER, "        if proved is False:\n", "        if False:\n"),
    ),
    mutant(
        "the way back is not looked at before a stage",
        "G1",
        "the last slot that boots is overwritten",
        NO_WAY_BACK,
        (MANAGER, "            self._check_way_back(observation, situation)\n", ""),
    ),
    # -- G2: a slot that is being written is out of reach -------------------------------------------------------------
    mutant(
        "staging does not disarm",
        "G2",
        "the flag, or a stray one, boots a half-written slot",
        f"{TOUCHED}[stage b while it is armed]",
        (PLAN, STAGE_DISARMS, ""),
    ),
    mutant(
        "disarming leaves the flag",
        "G2",
        "a watchdog reset during the stage follows it",
        f"{TOUCHED}[stage a while it is armed]",
        (PLAN, CLEAR_FLAG, CLEAR_FLAG.replace("SetFlag(False)", "*()").replace("append(*())", "extend(())")),
    ),
    mutant(
        "disarming leaves the reboot argument",
        "G2",
        "the next ordinary reboot carries it (H-12)",
        f"{TOUCHED}[stage b while it is armed]",
        (PLAN, CLEAR_FLAG, CLEAR_FLAG.replace("append(ClearArgument())", "extend(())")),
    ),
    mutant(
        "disarming leaves [tryboot]",
        "G2",
        "a stray flag boots a half-written slot",
        f"{TOUCHED}[stage b while it is armed]",
        (PLAN, "    away = autoboot.trial not in (None, autoboot.primary)\n", "    away = False\n"),
    ),
    mutant(
        "disarming clears the flag last",
        "G2",
        "a slot is hidden, and a file rewritten, that a warm reset would go by at that moment",
        f"{TOUCHED}[disarm a]",
        (PLAN, CLEAR_FLAG, CLEAR_FLAG.split("    if observation.pending")[1].join(["    if observation.pending", ""])),
        (
            PLAN,
            "    elif show:\n        _show(draft, situation)\n",
            "    elif show:\n        _show(draft, situation)\n    if observation.flag:\n        draft.steps.append(SetFlag(False))\n",
        ),
    ),
    mutant(
        "the slot keeps its boot sector while it is written",
        "G2",
        "the partition walk boots half a tree",
        f"{KEPT}[restage]",
        (STAGING, WRITE_SLOT, WRITE_SLOT.replace("        written += invalidate(self.device, geometry)\n", "")),
    ),
    mutant(
        "the backup boot sector stays while the slot is written",
        "G2",
        "a reader that falls back to it sees half a tree",
        f"{KEPT}[stage b, fat32]",
        (WRITE, INVALIDATE, INVALIDATE.replace("offsets:", "offsets[:1]:")),
        (
            WRITE,
            "        if device.read(offset, len(zeros)) != zeros:\n",
            "        if offset == 0 and device.read(offset, len(zeros)) != zeros:\n",
        ),
    ),
    mutant(
        "the zeros are not flushed",
        "G2",
        "the medium may keep the new content and the old boot sector",
        f"{KEPT}[restage]",
        (WRITE, INVALIDATE, INVALIDATE.replace("    device.flush()\n", "")),
    ),
    mutant(
        "the zeros are not read back",
        "G2",
        "a card that forgets them keeps the boot sector over half a tree",
        f"{FORGOT}[restage]",
        (WRITE, "        if device.read(offset, len(zeros)) != zeros:\n", "        if False:\n"),
    ),
    mutant(
        "the zeros are read back from the host's cache",
        "G2",
        "what the host remembers says nothing about the medium",
        f"{FORGOT}[restage]",
        (WRITE, INVALIDATE, INVALIDATE.replace("    device.forget_cache()\n", "")),
    ),
    mutant(
        "the boot sector is written first",
        "G2",
        "half a tree is visible",
        f"{KEPT}[stage b]",
        (
            STAGING,
            WRITE_SLOT,
            WRITE_SLOT.replace(
                "        step = progress", "        validate(self.device, geometry)\n        step = progress"
            ),
        ),
    ),
    mutant(
        "the content is not flushed",
        "G2",
        "the medium may keep the boot sector and lose what is behind it",
        f"{KEPT}[stage b]",
        (WRITE, "                reported = done\n    device.flush()\n", "                reported = done\n"),
    ),
    mutant(
        "the slot is not read back",
        "G2",
        "what the card lost is noticed by the trial, or never",
        f"{FORGOT}[stage b]",
        (STAGING, "        self._read_back(progress)\n", ""),
    ),
    mutant(
        "the slot is read back from the host's cache",
        "G2",
        "what the host remembers says nothing about the medium",
        f"{FORGOT}[stage b]",
        (STAGING, "        self.device.forget_cache()\n        expected = dict(", "        expected = dict("),
    ),
    mutant(
        "what the read-back found is ignored",
        "G2",
        "a tree with a lost file becomes visible",
        f"{FORGOT}[stage b]",
        (STAGING, "        if not report.ok:\n", "        if False:\n"),
    ),
    mutant(
        "the second FAT is not read back",
        "G2",
        "whoever reads by it sees another tree",
        f"{FORGOT}[stage b, fat32]",
        (STAGING, "            if self.device.read(offset, len(wanted)) != wanted:\n", "            if False:\n"),
    ),
    mutant(
        "the boot sector is not flushed",
        "G2",
        "the journal says staged, and the medium may have lost it",
        f"{FLUSHED}[try a]",
        (WRITE, VALIDATE, VALIDATE.replace("        device.flush()\n", "")),
    ),
    mutant(
        "the boot sector is not read back",
        "G2",
        "the journal says staged, the firmware sees nothing",
        f"{FORGOT}[stage b]",
        (WRITE, "        if device.read(offset, len(boot_sector)) != boot_sector:\n", "        if False:\n"),
    ),
    mutant(
        "the boot sector is read back from the host's cache",
        "G2",
        "what the host remembers says nothing about the medium",
        f"{FORGOT}[stage b]",
        (WRITE, VALIDATE, VALIDATE.replace("        device.forget_cache()\n", "")),
    ),
    mutant(
        "the backup comes before the boot sector",
        "G2",
        "a slot that is not visible yet has something that looks like it",
        f"{KEPT}[stage b, fat32]",
        (
            WRITE,
            "    for offset in geometry.boot_sector_offsets:\n        device.write(offset, boot_sector)\n",
            "    for offset in reversed(geometry.boot_sector_offsets):\n        device.write(offset, boot_sector)\n",
        ),
    ),
    mutant(
        "a stage is not journalled before it begins",
        "G2",
        "a half-written slot is taken for a hidden one, and gets its boot sector back",
        f"{KEPT}[restage]",
        (PLAN, STAGING_ENTRY, STAGING_ENTRY.replace("draft.append(", NOWHERE)),
    ),
    mutant(
        "staged is journalled before it is so",
        "G2",
        "a half-written slot is taken for a hidden one, and gets its boot sector back",
        f"{KEPT}[restage]",
        (
            PLAN,
            "    draft.steps.append(WriteSlot(slot))\n" + STAGED_ENTRY,
            STAGED_ENTRY + "    draft.steps.append(WriteSlot(slot))\n",
        ),
    ),
    mutant(
        "a slot that is incomplete is taken for a hidden one",
        "G2",
        "it gets its boot sector back over half a tree",
        f"{KEPT}[restage]",
        (
            OBSERVE,
            "SlotState.FAILED, SlotState.UNKNOWN})",
            "SlotState.FAILED, SlotState.UNKNOWN, SlotState.INCOMPLETE})",
        ),
        (
            STATES,
            "    if known.state in (SlotState.INCOMPLETE, SlotState.EMPTY):\n",
            "    if known.state is SlotState.EMPTY:\n",
        ),
    ),
    mutant(
        "a hidden slot is not shown again",
        "G2",
        "the flag fires at a slot without a boot sector",
        f"{CUT}[try a-power cut]",
        (PLAN, SWITCH_END, "    draft.steps.append(Switch(before, after))\n"),
    ),
    mutant(
        "a slot that a cut left hidden stays hidden",
        "G2",
        "the next boot does not find it",
        f"{CUT}[disarm a-power cut]",
        (
            PLAN,
            "        if slot is hidden or (reading.hidden and slot is not situation.primary)\n",
            "        if slot is hidden\n",
        ),
    ),
    mutant(
        "a slot is hidden whose geometry is nowhere",
        "G2",
        "a cut leaves it without a boot sector for good",
        GEOMETRY,
        (
            PLAN,
            "    if entry.geometry is not None or reading.geometry is None:\n        return entry\n",
            "    if True:\n        return entry\n",
        ),
    ),
    # -- G3: one write of one block -----------------------------------------------------------------------------------
    mutant(
        "autoboot.txt is replaced by a rename",
        "G3",
        "vfat writes FAT, directory and content in any order: a cut leaves a name without its content",
        f"{KEPT}[confirm b]",
        (
            SELECTOR,
            OVERWRITE,
            f"            if path == AUTOBOOT:\n                first, end = _rename(self._device, self._volume, first, bytes(after))\n            else:\n    {OVERWRITE}",
        ),
        (SELECTOR, "def replace_autoboot(", RENAME),
    ),
    mutant(
        "autoboot.txt is truncated and written anew",
        "G3",
        "a cut between the two leaves nothing",
        f"{CUT}[confirm b-power cut]",
        (
            SELECTOR,
            OVERWRITE,
            f"            self._device.write(first + differing[0], bytes(len(written)))\n            self._device.flush()\n{OVERWRITE}",
        ),
    ),
    mutant(
        "autoboot.txt and journal are not flushed",
        "G3",
        "the medium may keep what was written last and lose what was written before",
        f"{FLUSHED}[confirm b]",
        (
            SELECTOR,
            "        self._device.flush()\n        self._device.forget_cache()\n" + READ_BACK,
            "        self._device.forget_cache()\n" + READ_BACK,
        ),
    ),
    mutant(
        "a selector that is mounted read-only is written",
        "G3",
        "abboot overrules whoever mounted it",
        f"{MOUNTED}[commit]",
        (
            SELECTOR,
            "        writable = [mount for mount in mounts if mount.writable]\n",
            "        writable = list(mounts)\n",
        ),
    ),
    mutant(
        "a selector that is mounted is written behind its mount",
        "G3",
        "the kernel writes its own copy back over it",
        f"{MOUNTED}[commit]",
        (
            SELECTOR,
            "    mounts = _whole_mounts(disk, partition)\n    if mounts:\n        writable",
            "    mounts = ()\n    if mounts:\n        writable",
        ),
    ),
    mutant(
        "the intent is journalled after the switch",
        "G3",
        "a cut between them leaves a primary that nobody committed",
        f"{KEPT}[confirm b]",
        (
            PLAN,
            "    draft.append(\n        Transition.COMMITTING,",
            "    draft.steps.append(Switch(before, after))\n    draft.append(\n        Transition.COMMITTING,",
        ),
        (PLAN, COMMIT_SWITCH, COMMIT_SWITCH.replace("    draft.steps.append(Switch(before, after))\n", "")),
    ),
    mutant(
        "the intent is not journalled",
        "G3",
        "a cut behind the switch leaves a primary that nobody committed",
        f"{KEPT}[confirm b]",
        (PLAN, "    draft.append(\n        Transition.COMMITTING,", f"    {NOWHERE}\n        Transition.COMMITTING,"),
    ),
    mutant(
        "done is journalled before it is so",
        "G3",
        "the journal says committed, and a cold boot reaches the old primary",
        f"{KEPT}[confirm b]",
        (PLAN, COMMIT_SWITCH, COMMIT_SWITCH.replace("    draft.steps.append(Switch(before, after))\n", "")),
        (
            PLAN,
            "outcome=Outcome.COMMITTED),\n    )\n    return draft.done()\n",
            "outcome=Outcome.COMMITTED),\n    )\n    draft.steps.append(Switch(before, after))\n    return draft.done()\n",
        ),
    ),
    mutant(
        "every journal entry takes the block of the one before it",
        "G3",
        "a torn entry takes the last good one with it",
        "test_every_cut.py::test_every_scenario_writes_something_and_the_ring_was_once_around",
        (SELECTOR, "    block = journal_format.block_index(entry.sequence, blocks)\n", "    block = 0\n"),
    ),
    mutant(
        "the rebuilt selector gets its boot sector first",
        "G3",
        "a cut leaves a selector without autoboot.txt",
        f"{KEPT}[repair the journal beside an untried a]",
        (
            REPAIR,
            REBUILD,
            REBUILD.replace(
                "        report += write", "        validate(device, plan.geometry)\n        report += write"
            ),
        ),
    ),
    # -- G4: neither the booted slot nor the primary is written -------------------------------------------------------
    mutant(
        "a trial may stage over the slot it runs from",
        "G4",
        "table and choice of the slot both forbid it: both edits",
        f"{IN_TRIAL}[<lambda>-a]",
        (
            STATES,
            "        Verb.STAGE: Permit.REFUSE,  # the other slot",
            "        Verb.STAGE: Permit.DO,  # the other slot",
        ),
        (STATES, "if self.primary is None or len(taken) != 1:", "if self.primary is None:"),
    ),
    mutant(
        "a trial may stage over the primary",
        "G4",
        "the only way back is gone",
        f"{IN_TRIAL}[<lambda>-a]",
        (
            STATES,
            "        Verb.STAGE: Permit.REFUSE,  # the other slot",
            "        Verb.STAGE: Permit.DO,  # the other slot",
        ),
        (
            STATES,
            "        if self.primary is None or len(taken) != 1:\n            return None\n        return self.primary.other\n",
            "        return self.booted.other if self.booted else None\n",
        ),
    ),
    mutant(
        "a slot that is neither primary nor on trial may stage",
        "G4",
        "it overwrites itself, or the way back: table and choice of the slot both forbid it",
        FOREIGN,
        (
            STATES,
            "    Phase.FOREIGN: dict.fromkeys(Verb, Permit.REFUSE),\n",
            "    Phase.FOREIGN: {**dict.fromkeys(Verb, Permit.REFUSE), Verb.STAGE: Permit.DO},\n",
        ),
        (STATES, "if self.primary is None or len(taken) != 1:", "if self.primary is None:"),
    ),
    mutant(
        "a repair may hide the booted slot",
        "G4",
        "the running system loses its boot sector",
        f"{REPAIRED}[booted by mistake]",
        (PLAN, " or below in (situation.booted, situation.primary):\n", ":\n"),
    ),
    mutant(
        "a repair may hide a slot that may be the booted one",
        "G4",
        "nobody can tell which one is booted (H-07)",
        f"{REPAIRED}[nobody can tell]",
        (
            PLAN,
            "    if observation.booted_here and situation.booted is None:\n        return None  # nobody",
            "    if False:\n        return None  # nobody",
        ),
    ),
    mutant(
        "a slot that is mounted may be written",
        "G4",
        "somebody reads from it",
        BEHIND,
        (
            MANAGER,
            "        mounts = self._disk.mounts_of(partition.number)\n        if mounts:\n",
            "        mounts = self._disk.mounts_of(partition.number)\n        if False:\n",
        ),
    ),
    # -- G5: what is acknowledged is durable --------------------------------------------------------------------------
    mutant(
        "the switch is not read back",
        "G5",
        "a commit is acknowledged that the card forgot",
        f"{FORGOT}[confirm b]",
        (SELECTOR, READ_BACK, "        if False:\n"),
    ),
    mutant(
        "the switch is read back from the host's cache",
        "G5",
        "what the host remembers says nothing about the medium",
        f"{FORGOT}[confirm b]",
        (
            SELECTOR,
            "        self._device.flush()\n        self._device.forget_cache()\n",
            "        self._device.flush()\n",
        ),
    ),
    mutant(
        "a stage does not wait after a commit",
        "G5",
        "a card that loses the switch boots the old primary, which is gone (H-47)",
        FIVE,
        (PLAN, "    _settle(draft)\n" + STAGE_DISARMS, STAGE_DISARMS),
    ),
    mutant(
        "hiding does not wait after a commit",
        "G5",
        "a card that loses the switch boots the old primary, which has no boot sector",
        FIVE,
        (PLAN, "        _settle(draft)\n" + HIDE, HIDE),
    ),
    mutant(
        "only a commit that was journalled as done is waited for",
        "G5",
        "one that was killed behind its switch is a switch as well",
        FIVE,
        (
            PLAN,
            "entry.transition in (Transition.COMMITTED, Transition.COMMITTING)",
            "entry.transition is Transition.COMMITTED",
        ),
    ),
    mutant(
        "the five seconds count from the plan",
        "G5",
        "checking the files takes longer than that",
        FIVE,
        (
            EXECUTE,
            "        if self._machine is None or entry.clocks is None:\n            return entry\n",
            "        if True:\n            return entry\n",
        ),
    ),
    mutant(
        "the saved journal is not read back",
        "G5",
        "a repair goes on without what it needs to go on from",
        f"{FORGOT}[repair the selector]",
        (REPAIR, "        if device.read(at, len(journal)) != journal:\n", "        if False:\n"),
    ),
    mutant(
        "the rebuilt selector is not read back",
        "G5",
        "a selector with a lost block becomes visible",
        f"{FORGOT}[repair the selector]",
        (
            REPAIR,
            "        if compare(device, plan, FatVolume(device, boot_sector=plan.boot_sector).held()).ranges:\n",
            "        if False:\n",
        ),
    ),
    # -- G6: only the trial that was armed is committed ---------------------------------------------------------------
    mutant(
        "commit on tryboot alone",
        "G6",
        "whoever sets the flag by hand commits",
        f"{ONLY}[the flag again after it was disarmed]",
        (
            STATES,
            "    if trial is None or trial.progress not in OPEN or trial.slot is not booted:\n",
            "    if report.tryboot is not True:\n",
        ),
        (STATES, "    if trial.started_boot_id not in (None, observation.boot_id):\n", "    if False:\n"),
    ),
    mutant(
        "commit without tryboot",
        "G6",
        "`reboot 3`, or a partition walk, commits (H-19, H-51)",
        f"{ONLY}[armed, and booted by number]",
        (STATES, "    if report.tryboot is not True:\n", "    if False:\n"),
    ),
    mutant(
        "an arm is for any number of boots",
        "G6",
        "a stray flag after a fall-back commits",
        f"{ONLY}[the flag again after it fell back]",
        (STATES, "    if trial.started_boot_id not in (None, observation.boot_id):\n", "    if False:\n"),
    ),
    mutant(
        "a trial is not stamped when it starts",
        "G6",
        "a stray flag after a fall-back commits",
        f"{ONLY}[the flag again after the power was cut in it]",
        (
            PLAN,
            "    if trial is None or trial.progress is not TrialProgress.ARMED:\n        return Plan()\n",
            "    if True:\n        return Plan()\n",
        ),
    ),
    mutant(
        "a trial that has ended is a trial",
        "G6",
        "a stray flag after it was disarmed commits",
        f"{ONLY}[the flag again after it was disarmed]",
        (
            STATES,
            "    if trial is None or trial.progress not in OPEN or trial.slot is not booted:\n",
            "    if trial is None or trial.slot is not booted:\n",
        ),
        (STATES, "    if trial.started_boot_id not in (None, observation.boot_id):\n", "    if False:\n"),
    ),
    mutant(
        "a trial of the other slot is a trial of this one",
        "G6",
        "phase and record both forbid it: both edits",
        OTHER,
        (STATES, " or trial.progress not in OPEN or trial.slot is not booted:\n", " or trial.progress not in OPEN:\n"),
        (VERIFY, "    if record_digest is not None and reading.record_digest != record_digest:\n", "    if False:\n"),
    ),
    mutant(
        "the table lets a foreign boot commit",
        "G6",
        "whoever boots a slot by hand commits",
        f"{ONLY}[the flag again after it fell back and was noted]",
        (
            STATES,
            "    Phase.FOREIGN: dict.fromkeys(Verb, Permit.REFUSE),\n",
            "    Phase.FOREIGN: {**dict.fromkeys(Verb, Permit.REFUSE), Verb.COMMIT: Permit.SWITCH},\n",
        ),
    ),
    mutant(
        "a trial that is being left may be committed",
        "G6",
        "what a health check rejected becomes the primary",
        f"{ONLY}[it is being left]",
        (
            PLAN,
            "    if trial.progress is TrialProgress.REVERTING:\n        raise Refused(",
            "    if False:\n        raise Refused(",
        ),
    ),
    mutant(
        "the files are not checked before a commit",
        "G6",
        "what somebody else wrote is committed",
        f"{COMMITTED}[a wrong kernel-a]",
        (PLAN, '    draft.steps.append(CheckFiles("commit", slot, trial.record_digest, edited_is_fine=True))\n', ""),
    ),
    mutant(
        "any record will do",
        "G6",
        "another staging than the armed one is committed",
        f"{COMMITTED}[another staging-a]",
        (VERIFY, "    if record_digest is not None and reading.record_digest != record_digest:\n", "    if False:\n"),
    ),
    mutant(
        "any manifest will do",
        "G6",
        "files are committed that the record never named",
        f"{COMMITTED}[a wrong kernel and a manifest that knows it-a]",
        (VERIFY, "(records.MANIFEST_PATH,) if _digest(data) != reading.record.tree_digest else ()", "()"),
    ),
    mutant(
        "a file that changed is not seen",
        "G6",
        "a wrong kernel is committed",
        f"{COMMITTED}[a wrong kernel-a]",
        (CHECK, " if digest != expected[path]]", " if not digest]"),
    ),
    mutant(
        "a file that is missing is not seen",
        "G6",
        "half a tree is committed",
        f"{COMMITTED}[a missing file-a]",
        (VERIFY, "        missing=report.missing,\n", "        missing=(),\n"),
    ),
    mutant(
        "any file may have been edited",
        "G6",
        "a wrong kernel is committed, and noted",
        f"{COMMITTED}[a wrong kernel-a]",
        (EXECUTE, "if step.edited_is_fine and fold(path) in edited}", "if step.edited_is_fine}"),
    ),
    mutant(
        "a slot that was never booted may have been edited",
        "G6",
        "nothing ran from it: whoever edited it was not its system",
        f"{TRIED}[an edited config.txt-a]",
        (
            PLAN,
            "edited_is_fine=draft.newest.slots[slot].state is SlotState.GOOD))\n    attempt",
            "edited_is_fine=True))\n    attempt",
        ),
    ),
    mutant(
        "what is armed is not checked again before the flag",
        "G6",
        "it fires at something else than the journal names",
        f"{FIRED}[a wrong kernel]",
        (
            PLAN,
            '        draft.steps.insert(0, CheckFiles("try", trial.slot, trial.record_digest, edited_is_fine=good))\n',
            "        assert good in (True, False)\n",
        ),
    ),
    # -- G7: no loop --------------------------------------------------------------------------------------------------
    mutant(
        "arm before verify",
        "G7",
        "[tryboot] names a slot that was not looked at: a stray flag tries it",
        f"{TRIED}[a wrong kernel-a]",
        (PLAN, CHECK_TRIAL, ""),
        (PLAN, FIRE, CHECK_TRIAL + FIRE),
    ),
    mutant(
        "the flag is set before the arm",
        "G7",
        "a reset fires it at a slot that no journal entry names",
        f"{FLAG}[try b]",
        (PLAN, CHECK_TRIAL, CHECK_TRIAL + "    draft.steps.append(SetFlag(True))\n"),
    ),
    mutant(
        "the arm is not journalled",
        "G7",
        "a trial runs that nobody counted",
        f"{FLAG}[try b]",
        (PLAN, "    draft.append(\n        Transition.ARMED,", f"    {NOWHERE}\n        Transition.ARMED,"),
    ),
    mutant(
        "the flag is not read back",
        "G7",
        "a stage goes on under a flag that is still set, or a reboot is no trial",
        f"{STUCK}[disarm a]",
        (EXECUTE, "        if found is not value:\n", "        if False:\n"),
    ),
    mutant(
        "the attempts are not bounded",
        "G7",
        "a slot that never comes up is tried at every boot",
        ATTEMPTS,
        (STATES, "    if rule.outcome is Outcome.NOT_REACHED and trial.attempt >= attempts:\n", "    if False:\n"),
    ),
    mutant(
        "the attempts are not counted",
        "G7",
        "a slot that never comes up is tried at every boot",
        ATTEMPTS,
        (PLAN, "attempt = min(last.attempt + 1, MAX_ATTEMPT)", "attempt = 1"),
    ),
    mutant(
        "a slot that fell back may be tried again",
        "G7",
        "a slot that nobody confirms is tried at every boot",
        f"{FAILED}[never confirmed]",
        (
            STATES,
            "        outcome=Outcome.FELL_BACK,\n        slot_becomes=SlotState.FAILED,\n",
            "        outcome=Outcome.FELL_BACK,\n        slot_becomes=SlotState.STAGED,\n",
        ),
    ),
    mutant(
        "a slot that could not be loaded may be tried again",
        "G7",
        "a slot without firmware is tried at every boot",
        f"{FAILED}[not bootable]",
        (
            STATES,
            "        outcome=Outcome.UNBOOTABLE,\n        slot_becomes=SlotState.FAILED,\n",
            "        outcome=Outcome.UNBOOTABLE,\n        slot_becomes=SlotState.STAGED,\n",
        ),
    ),
    mutant(
        "a slot that was left may be tried again",
        "G7",
        "a slot that is unhealthy is tried at every boot",
        f"{FAILED}[unhealthy]",
        (
            STATES,
            "        outcome=Outcome.REVERTED,\n        slot_becomes=SlotState.FAILED,\n",
            "        outcome=Outcome.REVERTED,\n        slot_becomes=SlotState.STAGED,\n",
        ),
    ),
    mutant(
        "a failed slot needs no --retry",
        "G7",
        "an updater that asks for a trial at every boot gets one",
        f"{FAILED}[never confirmed]",
        (MANAGER, "(state is SlotState.FAILED and retry)", "state is SlotState.FAILED"),
    ),
    mutant(
        "a health check reboots outside of a trial",
        "G7",
        "two slots with the same broken service chase each other",
        HEALTH,
        (
            MANAGER,
            "            if situation.phase is not Phase.TRIAL:\n                if failure",
            "            if situation.trial is None:\n                if failure",
        ),
        (
            MANAGER,
            "        if situation.phase is not Phase.TRIAL:\n            return self._unchanged(",
            "        if situation.trial is None:\n            return self._unchanged(",
        ),
        (
            PLAN,
            "    if trial.progress is not TrialProgress.REVERTING:\n        draft.append(",
            "    if trial.progress in OPEN:\n        draft.append(",
        ),
    ),
    mutant(
        "a repair reboots every time",
        "G7",
        "a card that boots the wrong slot whatever is repaired never stops",
        REPAIRS,
        (REPAIR, "    if _rebooted_before(observation):\n", "    if False:\n"),
    ),
    mutant(
        "the reboot of a repair is not counted",
        "G7",
        "a card that boots the wrong slot whatever is repaired never stops",
        REPAIRS,
        (REPAIR, "repair_reboots=entry.repair_reboots + 1)", "repair_reboots=0)"),
    ),
    mutant(
        "a repair reboots with the flag",
        "G7",
        "it comes back to the slot that it wants to leave",
        STRAY,
        (REPAIR, "            steps.append(SetFlag(False))\n", "            pass\n"),
    ),
    mutant(
        "a repair reboots with a stray argument",
        "G7",
        "it comes back to the slot that it wants to leave",
        STRAY,
        (REPAIR, "            steps.append(ClearArgument())\n", "            pass\n"),
    ),
    mutant(
        "leaving a trial stops at a failing card",
        "G11",
        "a trial on a card that takes no more writes never ends",
        "test_medium.py::test_a_trial_is_left_on_a_card_that_keeps_nothing",
        (
            MANAGER,
            "        self._executor(observation).run(plan, must_reboot=reboot)\n",
            "        self._executor(observation).run(plan)\n",
        ),
    ),
)
