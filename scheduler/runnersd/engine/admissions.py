"""What may come into the queue as things are now: by the configuration, the cards that are there, and the quotas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from runners.errors import InvalidPipeline, NotAllowed
from runners.spec import JobSpec, PipelineSpec, Submission
from runnersd.admission import Limits, admit, check_quotas
from runnersd.engine.loop import Loop
from runnersd.model import Job, Submitter
from runnersd.planner.bookings import check_limit
from runnersd.quotas import Account, member
from runnersd.revision import of_the_job
from runnersd.store import Store


class Admissions:
    """Asks `admission` with what is known at this moment. Nothing is changed."""

    def __init__(self, store: Store, loop: Loop) -> None:
        self._store, self._loop = store, loop

    def admitted(self, submissions: Sequence[Submission], submitter: Submitter, *, operator: bool) -> list[Submission]:
        """The submissions as they are to be queued.

        Raises:
            InvalidPipeline, TooLarge, QuotaExceeded, NotAllowed: see `admission.admit`.
        """
        limits, queued = self._limits(submitter), len(self._store.snapshot.waiting)
        return admit(submissions, self._loop.sight.inventory, limits, queued=queued, operator=operator)

    def check_quotas(self, submitter: Submitter, admitted: Sequence[Submission]) -> None:
        """Whether so many more jobs of the submitter may wait.

        Raises:
            QuotaExceeded: they may not.
        """
        users = {**self._store.submitters(), submitter.uid: submitter}

        def queued(account: Account) -> int:
            return sum(self._store.queued_by(uid) for uid, who in users.items() if member(who, account))

        config, total = self._loop.config, sum(len(one.pipeline.jobs) for one in admitted)
        group = config.operators if config.system else None
        whom = f"root or a member of {group}" if group is not None else "whoever runs this daemon"
        check_quotas(self._loop.quotas.accounts(submitter), total, queued, whom)

    def check_revised(self, job: Job, spec: JobSpec, now: float, *, operator: bool) -> None:
        """Whether the job may become what ``spec`` says, from now on (Unix seconds).

        Raises:
            InvalidPipeline: it could never run then.
            NotAllowed: its priority would rise above 0, and it is not an operator who asks.
            AlreadyTaken: it would run on into somebody's booking, and it is not an operator who asks.
        """
        if spec.priority > max(job.spec.priority, 0) and not operator:
            raise NotAllowed(f"cannot give job {job.id} the priority {spec.priority}: above 0 needs an operator")
        if not operator:
            check_limit(job, spec.time_limit, self._loop.world(), now)
        checked = replace(spec, priority=min(spec.priority, 0), needs=())
        probe = Submission(PipelineSpec(job.pipeline.name, (checked,)), job.pipeline.cwd, {})
        limits = self._limits(job.pipeline.submitter)
        try:
            admit([probe], self._loop.sight.inventory, limits, queued=0, operator=operator)
        except InvalidPipeline as error:
            raise InvalidPipeline(f"cannot update job {job.id}: it could never run then", of_the_job(error)) from None

    def _limits(self, submitter: Submitter) -> Limits:
        config, machine = self._loop.config, self._loop.machine
        jobs, containers = config.jobs, config.containers
        return Limits(
            machine.cpus, machine.memory, jobs.max_queued, jobs.max_per_pipeline, jobs.time_limit, jobs.max_time_limit,
            engine=self._loop.attempts.engine_state,
            network=containers.network,
            image=containers.image,
            allowed_mounts=containers.allowed_mounts,
            root_refused=submitter.uid == 0 and not containers.allow_root,
            accounts=self._loop.quotas.accounts(submitter),
            margin=config.gpus.margin,
            mail=config.notify.smtp is not None,
        )  # fmt: skip
