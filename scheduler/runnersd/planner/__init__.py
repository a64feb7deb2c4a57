"""What should happen next, given everything known. Decides; never acts.

Priorities are strict. Within one, the user goes first who has used least of the cards, and of theirs the job that is
due first (`runnersd.urgency`). The first job that does not fit now gets a *reservation*: named cards, from a time on at
which they are expected to be free. So does each job for several cards, once that costs little or it has waited for
long; until then it is *owed* its cards, which only jobs with a time limit heed. Others may have cards that are kept
until then, if their limit or a prediction says that they will be done.

A job that could not run even if all of our jobs ended (its cards are foreign, drained or lost) keeps nothing.

world.py      what a plan is made of, and what it says about cards whoever of ours holds them
decisions.py  what comes out: decisions, reservations, and a plan of them
planning.py   `plan`: what has to end, what will never run, then the walk
walk.py       one pass over what is ready, best first
grants.py     what the plan has given so far
keeping.py    what is kept or owed before anybody is looked at
precedence.py whose jobs for several cards wait for those who have had less
promises.py   when cards are kept for jobs that need several
overdue.py    jobs for one card that have waited too long behind such, and when it is their turn
preemption.py who makes way for whom
allowance.py  what users may still start within their quotas
order.py      which ready job is looked at next
reasons.py    why a job does not start now
space.py      where and when a job fits
cards.py      which cards a job can have, and when
closest.py    which of those that fit it gets
room.py       the machine's own limits: jobs at once, CPUs, memory
timeline.py   how much of one thing is taken at which time
lengths.py    how long jobs are taken to run
images.py     whether a container job's image is there
bookings.py   which cards somebody can book, from when on, and whom a booking waits for
foresight.py  which cards the next jobs may get, so that their containers can be made early
stops.py      what must end: time limits, lost cards
telling.py    a plan in one line, for the log
words.py      how reasons name people, cards and times
"""

from runnersd.planner.decisions import Decision, Drop, Fail, Plan, Reservation, Resolve, Start, Stop
from runnersd.planner.planning import plan
from runnersd.planner.stops import time_limit_of
from runnersd.planner.world import World, job_of, outsider_text, supervisors_on, usable

__all__ = [
    "Decision",
    "Drop",
    "Fail",
    "Plan",
    "Reservation",
    "Resolve",
    "Start",
    "Stop",
    "World",
    "job_of",
    "outsider_text",
    "plan",
    "supervisors_on",
    "time_limit_of",
    "usable",
]
