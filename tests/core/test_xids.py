"""What is done about errors that the driver reports of a card, by their numbers."""

from __future__ import annotations

import pytest

from runnersd.config import XidConfig
from runnersd.xids import action, xid_text

CATALOG = XidConfig()


@pytest.mark.parametrize("xid", [13, 31, 43, 45, 63, 68, 92, 94, 105, 121, 135, 154])
def test_what_an_application_did_or_what_needs_nothing_takes_no_card_out(xid: int) -> None:
    assert action(xid, CATALOG) == "ignore"
    assert action(xid, XidConfig(unknown="quarantine")) == "ignore"
    assert action(xid, XidConfig(quarantine=(xid,))) == "quarantine"


@pytest.mark.parametrize("xid", [46, 48, 62, 64, 74, 79, 95, 109, 110, 119, 120, 136, 140, 143, 158])
def test_what_needs_a_reset_or_a_reboot_takes_the_card_out(xid: int) -> None:
    assert action(xid, CATALOG) == "quarantine"
    assert action(xid, XidConfig(ignore=(xid,))) == "ignore"


@pytest.mark.parametrize("xid", [1, 54, 142, 144, 149, 159, 171, 999])
def test_of_a_number_without_an_action_the_configuration_decides(xid: int) -> None:
    assert action(xid, CATALOG) == "ignore"
    assert action(xid, XidConfig(unknown="quarantine")) == "quarantine"
    assert action(xid, XidConfig(unknown="quarantine", ignore=(xid,))) == "ignore"
    assert action(xid, XidConfig(quarantine=(xid,))) == "quarantine"


def test_they_are_called_as_the_catalog_calls_them() -> None:
    assert xid_text(79) == "Xid 79 (GPU has fallen off the bus)"
    assert xid_text(13) == "Xid 13 (Graphics Engine Exception)"
    assert [xid_text(number) for number in (99, 105)] == ["Xid 99 (NVJPG1 Error)", "Xid 105 (NVJPG7 Error)"]
    assert [xid_text(number) for number in (126, 135)] == [
        "Xid 126 (CE10: Unknown Error)",
        "Xid 135 (CE19: Unknown Error)",
    ]
    assert xid_text(999) == "Xid 999"
