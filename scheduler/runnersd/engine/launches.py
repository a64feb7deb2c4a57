"""Turns a reserved job into what its launcher needs, so that nothing is looked up again later."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from runnersd.config import Config
from runnersd.environment import (
    argv_of,
    container_environment,
    container_home,
    container_mounts,
    container_workdir,
    directories_of,
    experiment_folder,
    host_environment,
)
from runnersd.machine import ContainerLauncher, LaunchFailed
from runnersd.model import ContainerSpec, Inventory, Job, Launch, RunName, Submitter
from runnersd.store import Store


class Launches:
    """Makes launches of jobs. ``own`` is the uid and gid that everything runs as where ``change_user`` is false."""

    def __init__(
        self, store: Store, config: Config, containers: ContainerLauncher | None, *, change_user: bool,
        own: tuple[int, int], cpus: float,
    ) -> None:  # fmt: skip
        self.config = config
        self.inventory = Inventory()
        self._store, self._containers = store, containers
        self._change_user, self._own, self._cpus = change_user, own, cpus

    def submitter(self, job: Job) -> Submitter | None:
        """Whose rights the job has; None for our own."""
        return job.pipeline.submitter if self._change_user else None

    async def launch(self, job: Job, run: RunName) -> Launch:
        """The job's launch under this name.

        Raises:
            LaunchFailed: its image cannot be had any more.
        """
        if job.spec.run_in == "container":
            return await self._container(job, run)
        pipeline, spec = job.pipeline, job.spec
        submitted = await self._store.environment(pipeline.id)
        return Launch(
            run=run,
            argv=argv_of(spec),
            environment=comet_environment(self.config, submitted)
            | host_environment(job, submitted, job.gpus, self.inventory.gpus, configured(self.config)),
            cwd=str(PurePosixPath(pipeline.cwd) / (spec.workdir or ".")),
            umask=pipeline.umask,
            submitter=self.submitter(job),
            gpus=job.gpus,
            grace=spec.grace,
            log_max=self.config.jobs.log_max,
            experiment=experiment_folder(spec.experiment),
            away=self._away(job) if self.config.gpus.confine else (),
        )

    def _away(self, job: Job) -> tuple[int, ...]:
        """The minors of the cards that the job has not got; none where it is not known which those are."""
        known = {gpu.uuid: gpu.minor for gpu in self.inventory.gpus}
        own = {known.get(uuid) for uuid in job.gpus}
        if None in own:
            return ()
        return tuple(sorted({minor for minor in known.values() if minor is not None} - own))

    async def _container(self, job: Job, run: RunName) -> Launch:
        pipeline, spec, config = job.pipeline, job.spec, self.config.containers
        if self._containers is None or spec.image is None:
            raise LaunchFailed(f"cannot run job {job.id} in a container: this daemon has no container engine")
        submitted = await self._store.environment(pipeline.id)
        image = await self._containers.image(spec.image)
        directories = directories_of(submitted, configured(self.config))
        who = pipeline.submitter
        uid, gid = (who.uid, who.gid) if self._change_user else self._own
        mounts = container_mounts(pipeline.cwd, directories, spec.mounts)
        home = container_home(who.user, uid, mounts)
        minors = {gpu.uuid: gpu.minor for gpu in self.inventory.gpus}
        return Launch(
            run=run,
            argv=argv_of(spec, "sh"),
            environment=comet_environment(self.config, submitted)
            | ({"RUNNERS_IMAGE": image.id} if spec.experiment else {})
            | container_environment(job, submitted, job.gpus, self.inventory.gpus, directories, home),
            cwd=container_workdir(pipeline.cwd, spec.workdir),
            umask=pipeline.umask,
            submitter=who if self._change_user else None,
            gpus=job.gpus,
            grace=spec.grace,
            log_max=self.config.jobs.log_max,
            container=ContainerSpec(
                image=image,
                uid=uid,
                gid=gid,
                groups=who.groups if self._change_user else (),
                mounts=mounts,
                allowed=config.allowed_mounts,
                home=home,
                memory=spec.memory,
                cpus=min(spec.cpus_wanted, self._cpus) or None,
                shm_size=spec.shm_size or config.shm_size,
                pids=config.pids,
                network=config.network,
                log_max=config.log_max,
                ports=spec.ports,
                minors=tuple(minors.get(uuid) for uuid in job.gpus),
            ),
        )


def configured(config: Config) -> dict[str, str | None]:
    """The directories that the configuration gives to jobs whose submitters' environments name none."""
    named = config.directories
    return {"data": named.data, "cache": named.cache, "artifacts": named.artifacts, "nussl": named.nussl}


def comet_environment(config: Config, submitted: Mapping[str, str]) -> dict[str, str]:
    """What the configuration says of experiments on Comet, where a job and its submitter do not."""
    comet = config.comet
    workspace = submitted.get("COMET_WORKSPACE") or comet.workspace
    return {
        **({"RUNNERS_COMET_OFFLINE": "1"} if comet.offline else {}),
        **({"COMET_WORKSPACE": workspace} if workspace else {}),
    }
