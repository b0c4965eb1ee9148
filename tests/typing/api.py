"""The documented use of the library, for mypy --strict only: never run."""

from __future__ import annotations

import abboot
from abboot.simulator import Board, Model, PowerCut, SimulatedPi


def forklift_wrapper(tree: str) -> str:
    manager = abboot.BootManager.from_system()
    staged = manager.stage(tree, annotations={"bundle": "7"}, progress=show)
    change = manager.trial(staged.record_digest)
    assert change.rebooting
    return staged.record_digest


def wrapper_with_the_stage_store(manager: abboot.BootManager) -> int | None:
    forklift = abboot.forklift.Forklift(manager, store="/var/lib/forklift/stages")
    pending: abboot.forklift.Pending = forklift.pending()
    if pending.need is abboot.forklift.Need.STAGE:
        staged = forklift.stage(progress=show)
        manager.trial(staged.record_digest)
    last = forklift.last_trial()
    assert forklift.rebind().why
    return last.bundle if last is not None and last.outcome is abboot.Outcome.COMMITTED else None


def health_check_service(manager: abboot.BootManager) -> bool:
    report = abboot.health.watch([abboot.health.TcpCheck(name="ssh", port=22)], stable_for=10, deadline=300)
    change: abboot.Change = manager.end_trial(healthy=report.healthy, reason=report.summary)
    return change.changed


def image_builder(spec: str, out: str) -> int:
    report = abboot.image.build(abboot.image.load_spec(spec), out, tree="tree", progress=show)
    return report.size_bytes


def somebodys_tests(image: str) -> abboot.Slot | None:
    with SimulatedPi(image, board=Board(model=Model.PI_5)) as pi:
        pi.cut_before_write(3)
        try:
            pi.manager().stage("tree")
        except PowerCut:
            pi.power_cut()
        status: abboot.Status = pi.manager().status()
        assert status.slots[abboot.Slot.A].state is abboot.SlotState.GOOD
        return status.booted


def show(progress: abboot.Progress) -> None:
    print(progress.activity, progress.bytes_done, progress.bytes_total, progress.path)
