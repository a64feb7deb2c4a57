"""All checks, in the order in which they are shown. Pure."""

from __future__ import annotations

from runnersd.doctor.cards import check_cards, has_cards
from runnersd.doctor.containers import check_engine
from runnersd.doctor.facts import Facts
from runnersd.doctor.finding import Finding
from runnersd.doctor.people import check_people
from runnersd.doctor.places import check_daemon, check_machine


def examine(facts: Facts) -> list[tuple[str, list[Finding]]]:
    """What was found, in groups."""
    cards = has_cards(facts.cards)
    return [
        ("Daemon", list(check_daemon(facts))),
        ("Cards", list(check_cards(facts.cards))),
        ("Containers", list(check_engine(facts.engine, facts.config, cards=cards, linked=facts.cards.linked))),
        ("People", list(check_people(facts))),
        ("Machine", list(check_machine(facts))),
    ]
