"""Who may do what: the rules, apart from how the kernel says who it is."""

from __future__ import annotations

import pytest

from runners.errors import NotAllowed
from runners.spec import JobSpec
from runnersd.model import Job, Pipeline, Submitter
from runnersd.server.peer import Access, Peer

ADA, BOB, ROOT = Peer(1000, 1000), Peer(1001, 1001), Peer(0, 0)
OPERATORS = 500
BY_GROUP, BY_PRIMARY_GROUP = Peer(1002, 1002, (4, OPERATORS)), Peer(1003, OPERATORS)


def job_of(uid: int) -> Job:
    return Job(1, Pipeline(1, "p", Submitter(uid, uid, (), "ada"), "/", 0o22, 1, 0.0, 1), 0, JobSpec("a", "true"))


@pytest.mark.parametrize(
    ("access", "peer", "admitted", "operator"),
    [
        (Access(True, 0, OPERATORS), ADA, True, False),
        (Access(True, 0, OPERATORS), ROOT, True, True),
        (Access(True, 0, OPERATORS), BY_GROUP, True, True),
        (Access(True, 0, OPERATORS), BY_PRIMARY_GROUP, True, True),
        (Access(True, 0, None), BY_GROUP, True, False),
        (Access(False, ADA.uid), ADA, True, True),
        (Access(False, ADA.uid), ROOT, True, True),
        (Access(False, ADA.uid), BOB, False, False),
        (Access(False, ADA.uid, OPERATORS), BY_GROUP, False, False),
    ],
)
def test_who_is_answered_and_who_is_an_operator(access: Access, peer: Peer, admitted: bool, operator: bool) -> None:
    assert access.admits(peer) is admitted
    assert access.is_operator(peer) is operator


def test_a_job_is_its_owners_and_the_operators() -> None:
    access = Access(True, 0, OPERATORS)
    for peer in (ADA, ROOT, BY_GROUP):
        access.check_owner(peer, job_of(ADA.uid), "cancel")
    with pytest.raises(NotAllowed, match=r"^cannot cancel job 1: it belongs to ada; ask them or an operator$"):
        access.check_owner(BOB, job_of(ADA.uid), "cancel")


def test_an_operators_act_is_theirs_alone() -> None:
    access = Access(True, 0, OPERATORS)
    access.check_operator(BY_PRIMARY_GROUP, "drain")
    with pytest.raises(NotAllowed, match=r"^cannot drain: that takes an operator"):
        access.check_operator(ADA, "drain")
