"""The daemon put together: what is made in which order, what ends it, and what it tells systemd meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runners.errors import RunnersError
from runnersd import systemd
from runnersd.config import Config, needs_restart, reloaded
from runnersd.engine import Engine, Machine
from runnersd.logs import set_up
from runnersd.machine.cards import CardLocks
from runnersd.machine.docker.launcher import DockerLauncher
from runnersd.machine.host.launcher import HostLauncher
from runnersd.machine.meter import KernelMeter
from runnersd.machine.nvml import NvmlObserver
from runnersd.notices.outbox import Notices
from runnersd.server import serve
from runnersd.statedir import StateDirectory
from runnersd.store import Store
from runnersd.telemetry.recorder import SeriesRecorder

log = logging.getLogger(__name__)

#: Finished pipelines older than `jobs.keep` are looked for this often (seconds).
PRUNE_EVERY = 3600.0
#: Old series of telemetry are looked for this often (seconds).
TIDY_EVERY = 86_400.0
#: What systemd is asked to wait for the database to be checked and read (microseconds).
RESTORE_TIME = 600_000_000


async def run(config: Config, load: Callable[[], Config]) -> int:
    """Serve until told to stop. ``load`` reads the configuration anew, for SIGHUP. Returns the exit status.

    Raises:
        InvalidConfig: the state directory, the locks or the socket cannot be had.
    """
    assert config.paths is not None, "a daemon's configuration says where it lives"
    # First of all: it takes systemd's variables and descriptors away from whatever is started from here on.
    sockets = systemd.listen_sockets()
    state = StateDirectory(config.paths.state)
    try:
        return await _run(config, load, state, sockets)
    finally:
        state.close()


async def _run(config: Config, load: Callable[[], Config], state: StateDirectory, sockets: Mapping[str, int]) -> int:
    assert config.paths is not None, "checked by run()"
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        systemd.notify(f"EXTEND_TIMEOUT_USEC={RESTORE_TIME}")
        store = await Store.open(state.path / "runnersd.db", clock=time.time, boot=boot_id())
        stack.push_async_callback(store.close)
        cards = CardLocks(config.paths.locks, store.database)
        launcher = HostLauncher(state.path, cards)
        await launcher.open()
        containers = DockerLauncher(
            state.path,
            config.containers.socket,
            store.database,
            boot=boot_id(),
            gated=config.system or config.containers.staging,
            private=(str(state.path), str(config.paths.locks)),
            cards=cards,
        )
        await containers.open()
        recorder = SeriesRecorder(state.path, config.telemetry.every)
        stack.push_async_callback(recorder.close)
        observer = NvmlObserver(timeout=config.gpus.timeout)
        engine = Engine(
            config,
            store,
            observer,
            cards,
            launcher,
            machine=_machine(),
            clock=time.time,
            ticks=time.monotonic,
            free_disk=state.free,
            change_user=config.system,
            containers=containers,
            own=(os.getuid(), os.getgid()),
            meter=KernelMeter(),
            recorder=recorder,
        )
        stack.push_async_callback(engine.close)
        notices = Notices(store, config, time.time, engine.card_indices)
        stack.push_async_callback(notices.close)
        notices.start()
        await engine.start()
        server = await serve(engine, config, sockets=sockets)
        stack.push_async_callback(server.close)

        def reload() -> None:
            systemd.notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
            _reload(engine, load)
            observer.timeout = engine.config.gpus.timeout
            recorder.every = engine.config.telemetry.every
            notices.configure(engine.config)
            set_up(engine.config.log)
            systemd.notify("READY=1")

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, engine.stopping.set)
        loop.add_signal_handler(signal.SIGHUP, reload)
        watchers = [
            asyncio.create_task(engine.stopping.wait(), name="stop"),
            asyncio.create_task(engine.failed(), name="engine"),
            asyncio.create_task(_fail(store), name="store"),
            asyncio.create_task(_feed_watchdog(engine), name="watchdog"),
            asyncio.create_task(_prune(engine), name="prune"),
            asyncio.create_task(_tidy(engine, recorder), name="telemetry"),
        ]
        systemd.notify(f"READY=1\nSTATUS=serving {config.paths.socket}")
        log.info("serving %s, state in %s, pid %d", config.paths.socket, state.path, os.getpid())
        try:
            return await _first_end(watchers)
        finally:
            systemd.notify("STOPPING=1")
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)


async def _first_end(watchers: Sequence[asyncio.Task[Any]]) -> int:
    """0 when somebody asked for the end; 1 when the store died or a task broke, which is logged here and only here."""
    done, _ = await asyncio.wait(watchers, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        error = task.exception()
        if error is not None:
            log.critical("ending: %s broke; running jobs go on and will be adopted", task.get_name(), exc_info=error)
            return 1
    log.info("stopping; running jobs go on and will be adopted")
    return 0


async def _fail(store: Store) -> None:
    """Raises what made the store unusable for good."""
    await store.fatal


async def _feed_watchdog(engine: Engine) -> None:
    """Tell systemd that the loop turns, from the loop itself, and only while the engine's heart beats."""
    interval = systemd.watchdog_interval()
    while True:
        if interval is not None and engine.heartbeat():
            systemd.notify("WATCHDOG=1")
        await asyncio.sleep(interval / 3 if interval is not None else 3600)


async def _prune(engine: Engine) -> None:
    """Forget pipelines that ended longer ago than `jobs.keep`."""
    while True:
        await asyncio.sleep(PRUNE_EVERY)
        if engine.store.healthy:
            gone = await engine.prune(time.time() - engine.config.jobs.keep)
            if gone:
                log.info("forgot %d attempts that ended longer ago than jobs.keep", gone)


async def _tidy(engine: Engine, recorder: SeriesRecorder) -> None:
    """Make old series of telemetry small, and delete those older than `telemetry.keep`: an hour after the start, when
    there is time for it, and then daily."""
    await asyncio.sleep(PRUNE_EVERY)
    while True:
        await recorder.keep(time.time(), engine.config.telemetry.keep)
        await asyncio.sleep(TIDY_EVERY)


def _reload(engine: Engine, load: Callable[[], Config]) -> None:
    try:
        new = load()
    except RunnersError as error:
        log.error("the configuration stays as it was: %s", error)
        return
    late = needs_restart(engine.config, new)
    if late:
        log.warning("needs a restart to take effect: %s", ", ".join(late))
    engine.configure(reloaded(engine.config, new))
    log.info("configuration read again")


def boot_id() -> str:
    """What tells this boot of the machine from every other."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _machine() -> Machine:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(float(len(os.sched_getaffinity(0))), memory)
