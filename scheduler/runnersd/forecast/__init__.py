"""When the jobs in line will start, as far as anybody can say. Foretells; decides nothing, changes nothing.

The queue is played forward three times, by the planner's own rules: as things are likely to go, with jobs that end
sooner, and with jobs that end later. It costs only when somebody asks, and no more for a long queue than for a short
one: the first hundred jobs that could start are foretold, and what is behind them is not.

outlooks.py      how long jobs run in each of the three
queue.py         a copy of the head of the queue
playing.py       one play of it
making_way.py    who makes way for whom in a play
expectations.py  the forecast: what the three plays say together
effects.py       what a change does to others
advice.py        what would let a job start now
"""

from runnersd.forecast.advice import Advice, advice, can_be_advised
from runnersd.forecast.effects import Effect, Foreseen, effects
from runnersd.forecast.expectations import Expectation, Forecast, Forecaster, forecast

__all__ = [
    "Advice",
    "Effect",
    "Expectation",
    "Forecast",
    "Forecaster",
    "Foreseen",
    "advice",
    "can_be_advised",
    "effects",
    "forecast",
]
