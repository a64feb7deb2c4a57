"""What every launcher promises, whatever it launches on. A module of tests gives it a `world`."""

from __future__ import annotations

import asyncio

import pytest

from machine.worlds import World, run_name
from runners.api import Code
from runnersd.machine import LaunchFailed

RUN = run_name()


class LauncherContract:
    """Subclass it with a fixture `world`."""

    @pytest.mark.parametrize("code", [0, 3, 255])
    async def test_the_exit_code_is_the_process_s_own(self, world: World, code: int) -> None:
        launcher = await world.daemon()
        started = await launcher.launch(world.order(f"exit {code}"))
        outcome = await launcher.wait(RUN)
        assert (outcome.exit_code, outcome.signal, outcome.failure) == (code, None, None)
        assert outcome.started_at == started
        assert outcome.finished_at is not None and outcome.finished_at >= started
        if world.measures:
            assert (outcome.peak_memory or 0) > 0
        assert not outcome.truncated and not outcome.stopped

    @pytest.mark.parametrize("number", [9, 10, 15])
    async def test_a_signal_is_128_and_its_number(self, world: World, number: int) -> None:
        launcher = await world.daemon()
        await launcher.launch(world.order(f"raise {number}"))
        outcome = await launcher.wait(RUN)
        assert (outcome.exit_code, outcome.signal) == (128 + number, number)

    async def test_a_name_runs_once(self, world: World) -> None:
        launcher = await world.daemon()
        order = world.order("serve")
        first, second = await asyncio.gather(launcher.launch(order), launcher.launch(order))
        assert first == second == await launcher.launch(order)
        world.finish(RUN, 4)
        assert (await launcher.wait(RUN)).exit_code == 4
        assert await launcher.launch(order) == first
        assert world.starts(RUN) == 1

    async def test_the_end_can_be_asked_for_by_many_and_again(self, world: World) -> None:
        launcher = await world.daemon()
        await launcher.launch(world.order("serve"))
        waiters = [asyncio.ensure_future(launcher.wait(RUN)) for _ in range(3)]
        impatient = asyncio.ensure_future(launcher.wait(RUN))
        await asyncio.sleep(0)
        impatient.cancel()
        world.finish(RUN, 5)
        outcomes = [*await asyncio.gather(*waiters), await launcher.wait(RUN)]
        assert {outcome.exit_code for outcome in outcomes} == {5}

    async def test_stop_ends_it_by_sigterm(self, world: World) -> None:
        launcher = await world.daemon()
        await launcher.launch(world.order("serve"))
        await launcher.stop(RUN)
        await launcher.stop(RUN)
        outcome = await launcher.wait(RUN)
        assert outcome.signal == 15 and outcome.stopped

    async def test_what_ignores_sigterm_is_killed_after_its_grace(self, world: World) -> None:
        launcher = await world.daemon()
        order = world.order("stubborn", grace=0.5)
        await launcher.launch(order)
        await world.ready(RUN)
        asked = asyncio.get_running_loop().time()
        await launcher.stop(RUN)
        assert (await launcher.wait(RUN)).signal == 9
        assert asyncio.get_running_loop().time() - asked >= 0.45

    @pytest.mark.parametrize("asked_before", [False, True])
    async def test_what_ignores_sigterm_can_be_killed_at_once(self, world: World, asked_before: bool) -> None:
        launcher = await world.daemon()
        await launcher.launch(world.order("stubborn", grace=1000))
        await world.ready(RUN)
        if asked_before:
            await launcher.stop(RUN)
        await launcher.stop(RUN, at_once=True)
        outcome = await launcher.wait(RUN)
        assert outcome.signal == 9 and outcome.stopped

    async def test_stopping_what_is_over_does_nothing(self, world: World) -> None:
        launcher = await world.daemon()
        await launcher.launch(world.order("exit 3"))
        before = await launcher.wait(RUN)
        await launcher.stop(RUN, at_once=True)
        await launcher.signal(RUN, 15)
        assert await launcher.wait(RUN) == before

    async def test_what_was_stopped_first_never_runs(self, world: World) -> None:
        launcher = await world.daemon()
        await launcher.stop(RUN)
        with pytest.raises(LaunchFailed):
            await launcher.launch(world.order("true"))
        outcome = await launcher.wait(RUN)
        assert outcome.exit_code is None
        assert outcome.failure is not None and outcome.failure.code is Code.CANCELLED_BY
        launcher = await world.daemon()
        with pytest.raises(LaunchFailed):
            await launcher.launch(world.order("true"))
        assert world.starts(RUN) == 0

    async def test_a_stop_that_meets_the_launch_ends_it(self, world: World) -> None:
        launcher = await world.daemon()
        launch = asyncio.ensure_future(launcher.launch(world.order("serve")))
        await asyncio.sleep(0)
        await launcher.stop(RUN)
        outcome = await launcher.wait(RUN)
        assert outcome.signal == 15 or outcome.failure is not None
        await asyncio.gather(launch, return_exceptions=True)

    async def test_what_cannot_start_says_so_and_never_will(self, world: World) -> None:
        launcher = await world.daemon()
        for _ in range(2):
            with pytest.raises(LaunchFailed, match=world.missing):
                await launcher.launch(world.order("missing"))
        outcome = await launcher.wait(RUN)
        assert outcome.exit_code is None
        assert outcome.failure is not None and outcome.failure.code is Code.LAUNCH_FAILED
        launcher = await world.daemon()
        with pytest.raises(LaunchFailed, match=world.missing):
            await launcher.launch(world.order("missing"))

    async def test_an_attempt_without_a_trace_is_lost(self, world: World) -> None:
        launcher = await world.daemon()
        outcome = await launcher.wait(RUN)
        assert outcome.failure is not None and outcome.failure.code is world.lost

    async def test_a_signal_is_passed_on(self, world: World) -> None:
        launcher = await world.daemon()
        await launcher.launch(world.order("serve"))
        await launcher.signal(RUN, 10)
        outcome = await launcher.wait(RUN)
        assert (outcome.exit_code, outcome.signal, outcome.stopped) == (138, 10, False)

    async def test_the_supervisor_is_known_while_it_lives(self, world: World) -> None:
        launcher = await world.daemon()
        assert launcher.supervisor(RUN) is None
        await launcher.launch(world.order("serve"))
        assert (launcher.supervisor(RUN) or 0) > 1
        world.finish(RUN, 0)
        await launcher.wait(RUN)
        assert launcher.supervisor(RUN) is None

    async def test_only_what_is_over_can_be_forgotten(self, world: World) -> None:
        launcher = await world.daemon()
        await launcher.launch(world.order("serve"))
        with pytest.raises(ValueError, match="it is live"):
            await launcher.forget(RUN)
        world.finish(RUN, 0)
        await launcher.wait(RUN)
        await launcher.forget(RUN)
        await launcher.forget(RUN)
        outcome = await launcher.wait(RUN)
        assert outcome.failure is not None and outcome.failure.code is world.lost

    async def test_the_next_daemon_takes_back_what_runs(self, world: World) -> None:
        first = await world.daemon()
        started = await first.launch(world.order("serve"))
        above = first.supervisor(RUN)
        second = await world.daemon()
        assert await second.launch(world.order("serve")) == started
        assert second.supervisor(RUN) == above
        world.finish(RUN, 7)
        outcome = await second.wait(RUN)
        assert (outcome.exit_code, outcome.started_at) == (7, started)
        assert world.starts(RUN) == 1

    async def test_the_next_daemon_can_stop_what_it_did_not_start(self, world: World) -> None:
        first = await world.daemon()
        await first.launch(world.order("serve"))
        while not world.starts(RUN):  # before that an engine's init may not hear the signal
            await asyncio.sleep(0.01)
        second = await world.daemon()
        await second.stop(RUN)
        assert (await second.wait(RUN)).signal == 15

    async def test_what_ended_between_two_daemons_is_known(self, world: World) -> None:
        first = await world.daemon()
        await first.launch(world.order("exit 6"))
        await first.wait(RUN)
        second = await world.daemon()
        assert (await second.wait(RUN)).exit_code == 6
        await second.launch(world.order("exit 6"))
        assert world.starts(RUN) == 1

    async def test_a_daemon_that_dies_while_launching_does_not_start_it_twice(self, world: World) -> None:
        for job in range(1, world.many // 2 + 1):
            first = await world.daemon()
            launch = asyncio.ensure_future(first.launch(world.order("serve", job=job)))
            for _ in range(job):
                await asyncio.sleep(world.moment)
            launch.cancel()
            second = await world.daemon()
            await second.launch(world.order("serve", job=job))
            world.finish(run_name(job), 8)
            assert (await second.wait(run_name(job))).exit_code == 8
            assert world.starts(run_name(job)) == 1

    async def test_attempts_do_not_mix(self, world: World) -> None:
        launcher = await world.daemon()
        jobs = range(1, world.many + 1)
        await asyncio.gather(*(launcher.launch(world.order(f"exit {job}", job=job)) for job in jobs))
        outcomes = await asyncio.gather(*(launcher.wait(run_name(job)) for job in jobs))
        assert [outcome.exit_code for outcome in outcomes] == list(jobs)
