"""A host job's environment and command, built and never inherited. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runners.spec import JobSpec
from runnersd.model import Gpu, GpuId, Job

#: What belongs to the daemon's or the submitter's own service, and must not reach a job.
DROPPED = frozenset({"NOTIFY_SOCKET", "INVOCATION_ID", "WATCHDOG_PID", "WATCHDOG_USEC"})
#: The directories a job is told, under the config's name for each.
DIRECTORIES = {
    "data": "DATA_DIRECTORY",
    "cache": "CACHE_DIRECTORY",
    "artifacts": "ARTIFACTS_DIRECTORY",
    "nussl": "NUSSL_DIRECTORY",
}


def host_environment(
    job: Job,
    submitted: Mapping[str, str],
    gpus: Sequence[GpuId],
    inventory: Sequence[Gpu],
    directories: Mapping[str, str | None],
) -> dict[str, str]:
    """The whole environment of a host job: its submitter's own, then the job's `env`, then what `runners` says.

    ``directories`` are the daemon's, for those that the submitter's environment does not set. Cards are named by
    full UUID in PCI order; a job without cards gets an empty list, since an unset one means every card to CUDA.
    """
    env = {name: value for name, value in submitted.items() if name not in DROPPED and not name.startswith("LISTEN_")}
    for key, name in DIRECTORIES.items():
        value = directories.get(key)
        if not env.get(name):
            env.pop(name, None)
            if value:
                env[name] = value
    env.update(job.spec.env or {})
    order = {gpu.uuid: gpu.index for gpu in inventory}
    cards = sorted(gpus, key=lambda uuid: order.get(uuid, 1 << 30))
    env.update(
        RUNNERS_JOB_ID=str(job.id),
        RUNNERS_JOB_NAME=job.spec.name,
        RUNNERS_PIPELINE_ID=f"p{job.pipeline.id}",
        RUNNERS_ATTEMPT=str(job.attempt),
        CUDA_DEVICE_ORDER="PCI_BUS_ID",
        CUDA_VISIBLE_DEVICES=",".join(cards),
        RUNNERS_GPU_INDICES=",".join(str(order[uuid]) for uuid in cards if uuid in order),
        NUM_WORKERS=str(job.spec.num_workers),
    )
    return env


def host_argv(spec: JobSpec) -> tuple[str, ...]:
    """What is exec'ed: a string under `sh -c`, a list as it is."""
    return ("sh", "-c", spec.command) if isinstance(spec.command, str) else spec.command
