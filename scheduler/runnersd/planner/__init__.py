"""What should happen next, given everything known. Decides; never acts.

Order is by priority, then submission. A job that does not fit now *claims* every card it could use: later jobs may
flow round its claim but not through it, so a job that needs eight cards is not starved by jobs that need one. A job
that could not run even if all of our jobs ended (its cards are foreign, drained or lost) claims nothing.

The walk looks at one head per pipeline and shape (see `runnersd.snapshot`), and leaves a shape at the first job of it
that does not fit: a turn costs what it starts, not what is queued.

world.py      what a plan is made of, and what it says about cards whoever of ours holds them
decisions.py  what comes out: decisions, and a plan of them
planning.py   `plan`: what has to end, what will never run, then the walk
walk.py       one pass over what is ready, best first
order.py      which ready job is looked at next
room.py       the machine's own limits: jobs at once, CPUs, memory
images.py     whether a container job's image is there
cards.py      which cards a job gets, and who waits for which
foresight.py  which cards the next jobs may get, so that their containers can be made early
stops.py      what must end: time limits, lost cards
"""

from runnersd.planner.decisions import Decision, Drop, Fail, Plan, Resolve, Start, Stop
from runnersd.planner.planning import plan
from runnersd.planner.stops import time_limit_of
from runnersd.planner.world import World, supervisors_on, usable

__all__ = [
    "Decision",
    "Drop",
    "Fail",
    "Plan",
    "Resolve",
    "Start",
    "Stop",
    "World",
    "plan",
    "supervisors_on",
    "time_limit_of",
    "usable",
]
