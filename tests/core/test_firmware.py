"""The firmware model against what is published: tests/vectors/firmware, one vector per documented or measured fact."""

from __future__ import annotations

import tomllib
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abboot.core.autoboot import Autoboot
from abboot.core.firmware import (
    NEWEST,
    Board,
    Boot,
    CardView,
    Eeprom,
    Family,
    Kernel,
    Model,
    PartitionView,
    Reset,
    ResetKind,
    after_reset,
    identify_model,
    next_boot,
    opens_type,
    proves_ab_support,
)
from abboot.core.words import TableKind

VECTORS = Path(__file__).parent.parent / "vectors" / "firmware"
TREES = {name: frozenset(files) for name, files in tomllib.loads((VECTORS / "trees.toml").read_text()).items()}
BOOT_KEYS = {
    "name",
    "source",
    "board",
    "card",
    "table",
    "ordered",
    "startelf",
    "autoboot",
    "reset",
    "boots",
    "first",
    "why",
}


def vectors(kind: str) -> list[Any]:
    found = [
        pytest.param(vector, id=f"{path.stem}: {vector['name']}")
        for path in sorted(VECTORS.glob("*.toml"))
        if path.stem != "trees"
        for vector in tomllib.loads(path.read_text()).get(kind, [])
    ]
    assert found
    return found


def board_of(description: dict[str, Any]) -> Board:
    eeprom = {"partition", "partition_walk", "reboot_on_fatal_error", "write_protected"}
    return Board(
        eeprom=Eeprom(**{key: value for key, value in description.items() if key in eeprom}),
        **{key: value for key, value in description.items() if key not in eeprom},
    )


def card_of(vector: dict[str, Any]) -> CardView:
    autoboot = vector.get("autoboot")
    if autoboot is not None and len(autoboot.split()) == 2 and autoboot.replace(" ", "").isdigit():
        primary, trial = autoboot.split()
        autoboot = Autoboot(primary=int(primary), trial=int(trial)).render().decode()
    return CardView(
        table=TableKind(vector.get("table", "mbr")),
        in_disk_order=vector.get("ordered", True),
        autoboot=None if autoboot is None else autoboot.encode(),
        partitions=tuple(
            PartitionView(
                number=int(number),
                readable=tree not in ("-", "linux"),
                fat_type=tree != "linux",
                files=TREES.get(tree, frozenset()) if tree in ("-", "linux") else TREES[tree],
                startelf=vector.get("startelf"),
            )
            for number, tree in vector["card"].items()
        ),
    )


def unknown(value: object) -> object:
    return None if value == "unknown" else value


@pytest.mark.parametrize("vector", vectors("boot"))
def test_a_published_boot_is_what_the_model_says(vector: dict[str, Any]) -> None:
    assert vector.keys() <= BOOT_KEYS

    outcomes = next_boot(board_of(vector["board"]), card_of(vector), Reset(**vector.get("reset", {})))

    assert list(dict.fromkeys(boot.partition or 0 for boot in outcomes)) == vector["boots"], "\n".join(
        map(str, outcomes)
    )
    for key, value in vector.get("first", {}).items():
        assert getattr(outcomes[0], key) == value
    assert vector.get("why", "") in "\n".join(outcomes[0].why)
    assert vector["source"]


@pytest.mark.parametrize("vector", vectors("knob"))
def test_a_bootloader_has_what_its_release_notes_say(vector: dict[str, Any]) -> None:
    board = board_of(vector["board"])

    assert vector["source"]
    assert vector["expect"]
    for key, value in vector["expect"].items():
        assert getattr(board, key) == unknown(value), key


@pytest.mark.parametrize("vector", vectors("reset"))
def test_a_reset_keeps_what_was_published(vector: dict[str, Any]) -> None:
    def words(reset: Reset) -> str:
        return " ".join(["flag"] * reset.tryboot + [str(reset.request)] * bool(reset.request)) or "nothing"

    found = after_reset(
        board_of(vector["board"]),
        ResetKind(vector["kind"]),
        flag=vector.get("flag", False),
        argument=vector.get("argument"),
        request=vector.get("request", 0),
    )

    assert [words(reset) for reset in found] == vector["finds"]
    assert vector["source"]


@pytest.mark.parametrize("vector", vectors("type"))
def test_a_partition_type_is_opened_or_not(vector: dict[str, Any]) -> None:
    for type_id, answer in vector["opens"].items():
        assert opens_type(board_of(vector["board"]), type_id) == unknown(answer), type_id


@pytest.mark.parametrize(
    ("family", "build", "proved"),
    [
        (Family.PI5, None, True),
        (Family.PI5, date(2023, 9, 13), True),
        (Family.PI4, None, None),
        (Family.PI4, date(2021, 4, 29), False),
        (Family.PI4, date(2022, 10, 17), False),
        (Family.PI4, date(2022, 10, 18), True),
        (Family.PI0_3, None, None),
        (Family.PI0_3, date(2021, 4, 29), False),
        (Family.PI0_3, date(2026, 5, 17), None),
    ],
)
def test_only_a_date_or_a_pi_5_proves_a_b_support(family: Family, build: date | None, proved: bool | None) -> None:
    assert proves_ab_support(family, build) is proved


@pytest.mark.parametrize(
    ("text", "model", "revision"),
    [
        ("Raspberry Pi 4 Model B Rev 1.2", Model.PI_4, "1.2"),
        ("Raspberry Pi 5 Model B Rev 1.0\x00", Model.PI_5, "1.0"),
        ("Raspberry Pi 400 Rev 1.0", Model.PI_400, "1.0"),
        ("Raspberry Pi 500 Rev 1.0", Model.PI_500, "1.0"),
        ("Raspberry Pi Compute Module 4 Rev 1.1", Model.CM4, "1.1"),
        ("Raspberry Pi Compute Module 4S Rev 1.0", Model.CM4, "1.0"),
        ("Raspberry Pi Compute Module 5 Lite Rev 1.0", Model.CM5, "1.0"),
        ("Raspberry Pi 3 Model B Plus Rev 1.3", Model.PI_3, "1.3"),
        ("Raspberry Pi Zero 2 W Rev 1.0", Model.PI_ZERO_2, "1.0"),
        ("Raspberry Pi Zero W Rev 1.1", Model.PI_ZERO, "1.1"),
        ("Raspberry Pi 4 Model B", Model.PI_4, None),
    ],
)
def test_a_board_is_known_by_its_device_tree_name(text: str, model: Model, revision: str | None) -> None:
    assert identify_model(text) == (model, revision)


def test_every_model_is_known_by_its_own_name() -> None:
    for model in Model:
        assert identify_model(model.full_name) == (model, None)


def test_another_board_is_not_a_raspberry_pi() -> None:
    assert identify_model("linux,dummy-virt") is None
    assert identify_model("Raspberry Pi 6 Model B Rev 1.0") is None


# -- for any board and any card ---------------------------------------------------------------------------------------

dates = st.one_of(
    st.dates(date(2020, 1, 1), NEWEST),
    st.sampled_from([NEWEST, date(2021, 4, 29), date(2022, 12, 7), date(2025, 8, 13), date(2025, 12, 8)]),
)
boards = st.builds(
    Board,
    model=st.sampled_from(Model),
    bootloader=dates,
    revision=st.sampled_from([None, "1.0", "1.1", "1.2", "1.4", "1.5"]),
    eeprom=st.builds(
        Eeprom,
        partition=st.sampled_from([0, 0, 0, 1, 3, 62]),
        partition_walk=st.sampled_from([None, True, False]),
        reboot_on_fatal_error=st.sampled_from([None, True, False]),
        write_protected=st.booleans(),
    ),
    secure_boot=st.sampled_from([False, False, True]),
    kernel=st.sampled_from(Kernel),
)
trees = st.sampled_from(sorted(TREES)).flatmap(
    lambda name: (
        st.sampled_from(sorted(TREES[name])).map(lambda gone: TREES[name] - {gone})
        if TREES[name]
        else st.just(frozenset[str]())
    )
)
whole_or_not = st.one_of(st.sampled_from([TREES["pi3"], TREES["pi4"], TREES["pi5"], TREES["signed"]]), trees)
autoboots = st.one_of(
    st.none(),
    st.builds(Autoboot, primary=st.integers(1, 5), trial=st.integers(1, 5)).map(Autoboot.render),
    st.lists(
        st.sampled_from([b"[all]", b"[tryboot]", b"[ALL]", b"boot_partition=2", b"boot_partition=3\r", b"tryboot_a_b=1",
                         b"boot_partition=99", b"boot_partition=x"]), max_size=8
    ).map(b"\n".join),
    st.binary(max_size=64),
)  # fmt: skip


@st.composite
def cards(draw: st.DrawFn) -> CardView:
    numbers = sorted(draw(st.sets(st.sampled_from([1, 2, 3, 4, 5, 9]), max_size=5)))
    partitions = tuple(
        PartitionView(
            number=number,
            readable=draw(st.sampled_from([True, True, False])),
            fat_type=draw(st.booleans()),
            files=draw(whole_or_not),
            startelf=draw(st.sampled_from([None, date(2022, 1, 1), date(2024, 1, 1), date(2025, 4, 30)])),
        )
        for number in numbers
    )
    return CardView(
        table=draw(st.sampled_from(TableKind)),
        partitions=partitions,
        autoboot=draw(autoboots),
        in_disk_order=draw(st.booleans()),
    )


resets = st.builds(Reset, tryboot=st.booleans(), request=st.sampled_from([0, 0, 0, 1, 2, 3, 32, 63]))


def identity(boot: Boot) -> tuple[object, ...]:
    return boot.partition, boot.tryboot, boot.config, boot.reported_partition


@settings(max_examples=400, deadline=2000)
@given(boards, cards(), resets)
def test_every_outcome_is_possible_and_explained(board: Board, card: CardView, reset: Reset) -> None:
    outcomes = next_boot(board, card, reset)

    assert 1 <= len(outcomes) <= 64
    assert len({identity(boot) for boot in outcomes}) == len(outcomes)
    for boot in outcomes:
        assert boot.certain is (len(outcomes) == 1)
        assert boot.why
        assert all(sentence and "\n" not in sentence for sentence in boot.why)
        assert not boot.tryboot or reset.tryboot
        if boot.partition is None:
            assert (boot.tryboot, boot.config, boot.reported_partition) == (False, None, None)
        else:
            view = card.partition(boot.partition)
            assert view is not None
            assert view.readable
            assert boot.config is None or boot.config in view.files
            assert boot.reported_partition is not None


@settings(max_examples=200, deadline=2000)
@given(boards, cards(), resets)
def test_a_boot_without_assumptions_is_certain(board: Board, card: CardView, reset: Reset) -> None:
    outcomes = next_boot(board, card, reset)
    guesses = [
        text for boot in outcomes for text in boot.why if text.startswith("assumed") or "nothing documents" in text
    ]

    assert guesses or outcomes[0].certain


@settings(max_examples=200, deadline=2000)
@given(boards, cards(), st.sampled_from([None, b"", bytes(512), b"\xff" * 64]))
def test_garbage_boots_what_a_missing_file_boots(board: Board, card: CardView, garbage: bytes | None) -> None:
    def boots(autoboot: bytes | None) -> list[tuple[object, ...]]:
        view = CardView(
            table=card.table, partitions=card.partitions, autoboot=autoboot, in_disk_order=card.in_disk_order
        )
        return [identity(boot) for boot in next_boot(board, view, Reset())]

    assert set(boots(garbage)) == set(boots(None))


@settings(max_examples=200, deadline=2000)
@given(boards, st.integers(2, 3), st.sampled_from(TableKind))
def test_at_rest_the_flag_boots_what_a_cold_boot_boots(board: Board, primary: int, table: TableKind) -> None:
    tree = TREES["pi3"] | TREES["pi4"] | TREES["pi5"] | TREES["signed"]
    card = CardView(
        table=table,
        partitions=tuple(
            PartitionView(number=number, readable=True, files=files)
            for number, files in ((1, TREES["pi3-selector"]), (2, tree), (3, tree))
        ),
        autoboot=Autoboot(primary=primary, trial=primary).render(),
    )
    if board.ab_sections is not True:
        return
    cold = next_boot(board, card, Reset())[0]
    flagged = next_boot(board, card, Reset(tryboot=True))[0]

    if not (board.secure_boot and board.family is Family.PI0_3):
        assert (
            cold.partition
            == flagged.partition
            == (None if board.family is Family.PI0_3 and table == "gpt" else primary)
        )


@settings(max_examples=300)
@given(
    boards, st.sampled_from(ResetKind), st.booleans(), st.one_of(st.none(), st.text(max_size=300)), st.integers(0, 62)
)
def test_a_reset_invents_nothing(board: Board, kind: ResetKind, flag: bool, argument: str | None, request: int) -> None:
    found = after_reset(board, kind, flag=flag, argument=argument, request=request)

    assert found
    assert len(set(found)) == len(found)
    may_be_set = flag or (kind is ResetKind.REBOOT and " tryboot" in (argument or ""))
    assert may_be_set or not any(reset.tryboot for reset in found)
    if kind is ResetKind.POWER_CUT:
        assert found == (Reset(),)


def test_a_number_of_any_length_is_only_a_number() -> None:
    assert after_reset(Board(), ResetKind.REBOOT, flag=False, argument="9" * 100_000) == (Reset(),)


def test_a_day_before_and_after_the_window_nothing_asks_for_partition_32() -> None:
    for day, wanted in ((date(2025, 6, 20), True), (date(2025, 10, 8), False)):
        for offset, expected in ((0, wanted), (-1, not wanted)):
            board = Board(model=Model.PI_5, bootloader=day + timedelta(days=offset))
            found = after_reset(board, ResetKind.WATCHDOG, flag=False)
            assert (Reset(request=32) in found) is expected


def test_a_card_names_each_partition_once_and_in_order() -> None:
    one, two = (PartitionView(number=number, readable=True) for number in (1, 2))

    for wrong in ((two, one), (one, one)):
        with pytest.raises(ValueError, match="once each and lowest first"):
            CardView(partitions=wrong)


@pytest.mark.parametrize("model", [Model.PI_5, Model.PI_4])
@pytest.mark.parametrize("tree", ["pi4-no-kernel", "config-only", "signed", "pi4"])
def test_a_file_that_names_every_partition_in_doubtful_lines_has_a_bounded_answer(model: Model, tree: str) -> None:
    # The second boot, after a fatal error, reads the same file without the flag and so with other doubts.
    text = b"".join(b"boot_partition=%d\r\n" % number for number in range(200)) + b"tryboot_a_b=1\r\n"
    card = CardView(
        table=TableKind.GPT,
        partitions=tuple(
            PartitionView(number=number, readable=True, fat_type=number != 1, files=TREES[tree])
            for number in range(1, 9)
        ),
        autoboot=text,
    )

    assert 1 <= len(next_boot(Board(model=model), card, Reset(tryboot=True, request=62))) <= 64
