"""Every command of `runners-client`: its words, its help, and where it is done. For parsing, help and completion."""

from __future__ import annotations

from .options import Command, Option, Positional

_JSON = Option("--json", "one JSON document and nothing else")
_IDS = Positional("ID", "jobs", "some", "a job (12), or a pipeline (p3) for all of its jobs")
_DRY_RUN = Option("--dry-run", "only say who would start earlier or later for it")
#: What `submit` and `sweep` take.
_SUBMISSION = [
    Option("--dry-run", "queue nothing: check everything, and say when the jobs would start"),
    Option("-w --wait", "wait until all jobs are over; print a line for each that ends"),
    Option("-f --follow", "watch them run until all are over"),
    Option("--hold", "queue them held; `release` lets them start"),
    Option("--after", "start when these earlier jobs have succeeded", "ID", "ids"),
    Option("--priority", "-100 to 100, of all its jobs; above 0 is for operators", "N", "number"),
    Option("--name", "the pipeline's name, in place of the file's", "S"),
    _JSON,
]
_REASON = Option("--reason", "why, for everyone who looks", "TEXT")

#: Groups in the order `--help` shows them.
GROUPS = ("Run things", "Look", "Change jobs", "Cards and the daemon", "Your shell")

_RUN, _LOOK, _CHANGE, _DAEMON, _SHELL = GROUPS

COMMANDS = (
    Command(
        "submit",
        "submit:submit",
        "queue the jobs of pipeline files",
        group=_RUN,
        positionals=[Positional("FILE", "file", "some", "pipeline files; all are queued, or none")],
        options=_SUBMISSION,
        description="Prints the pipeline's id and its jobs'. Exits 1 when a job waited for did not succeed.\n"
        "Ctrl-C leaves the jobs running.",
        examples=[
            "submit train.yml",
            "submit train.yml --follow",
            "submit eval.yml --after p3",
            "submit a.yml b.yml --json",
        ],
    ),
    Command(
        "sweep",
        "sweep:sweep",
        "make an experiment in many variants, and queue their jobs",
        group=_RUN,
        positionals=[Positional("FILE", "file", "one", "an experiment's file with a `sweep`")],
        options=[
            Option("-g --gpus", "cards of each training and evaluation", "N", "number"),
            Option("--num-jobs", "at most so many of its jobs at once", "N", "number"),
            *_SUBMISSION,
        ],
        description="Each stage runs for every combination, one after the other: cache, train, evaluate, analyze.",
        examples=["sweep musdb.yml --dry-run", "sweep musdb.yml --gpus 1 --num-jobs 4 --follow"],
    ),
    Command(
        "validate",
        "submit:validate",
        "check pipeline files and show the jobs they make",
        group=_RUN,
        positionals=[Positional("FILE", "file", "some", "pipeline files")],
        options=[_JSON],
        description="Needs no daemon. Names every mistake with its file and line; exits 2 when there is one.",
        examples=["validate train.yml"],
    ),
    Command(
        "run",
        "run:run",
        "one job, now, in the foreground",
        group=_RUN,
        positionals=[Positional("CMD", "command", "rest", "the command and its words")],
        options=[
            Option("-g --gpus", "cards", "N", "number"),
            Option("--gpu-memory", "what each card must have free (20GiB)", "SIZE"),
            Option("--gpu-shared", "share the cards with other such jobs; --gpu-memory is its share of each"),
            Option("--gpu-capability", "cards of at least this compute capability (8.0)", "X.Y"),
            Option("--image", "run in a container of this image", "IMAGE"),
            Option("--cpus", "processor cores", "N"),
            Option("--memory", "memory of the machine, not of its cards (32GiB)", "SIZE"),
            Option("-t --time-limit", "stop it after this long (90s, 30m, 12h, 1:30:00, 2-12:00:00)", "TIME"),
            Option("--name", "the job's name", "S"),
            Option("-d --detach", "only queue it and print its id"),
            Option("--json", "with -d: one JSON document"),
        ],
        description="Its output, its signals, its exit code; 125 for any failure before it started.\n"
        "The first Ctrl-C is sent to the job, the second cancels it, the third kills it.",
        examples=["run --gpus 1 -- python train.py --lr 0.1", "run -d --gpus 2 --time-limit 12h -- ./sweep.sh"],
    ),
    Command(
        "status",
        "status:status",
        "cards, then running, queued and finished jobs",
        group=_LOOK,
        positionals=[Positional("ID", "jobs", "any", "only these jobs and pipelines")],
        options=[
            Option("-a --all", "every finished job, not only the last 10"),
            Option("-m --mine", "only your jobs"),
            Option("-n --limit", "at most N jobs (default 50; with --json all)", "N", "number"),
            Option("-w --watch", "look again every second, until q or Ctrl-C"),
            _JSON,
        ],
        to="show the status",
        examples=["status", "status --watch", "status p3 --json"],
    ),
    Command(
        "show",
        "show:show",
        "everything known of a job",
        group=_LOOK,
        positionals=[Positional("ID", "jobs", "one", "a job (12), or a pipeline (p3)")],
        options=[_JSON],
        examples=["show 12"],
    ),
    Command(
        "logs",
        "logs:logs",
        "what a job wrote, each stream to its own descriptor",
        group=_LOOK,
        positionals=[Positional("ID", "job", "one", "a job")],
        options=[
            Option("-f --follow", "go on until the job is over"),
            Option("-n --tail", "only the last N lines", "N", "number"),
            Option("--attempt", "of this attempt, not the last one", "K", "number"),
        ],
        to="show logs",
        examples=["logs 12", "logs -f 12", "logs 12 2>/dev/null"],
    ),
    Command(
        "wait",
        "wait:wait",
        "wait until jobs are over",
        group=_LOOK,
        positionals=[_IDS],
        options=[_JSON],
        description="Prints a line for each job that ends. Exits 1 when one did not succeed.",
        examples=["wait p3", "wait 12 13 && ./report.sh"],
    ),
    Command(
        "plot",
        "plot:plot",
        "draw what jobs did with their cards, or who had the machine's",
        group=_LOOK,
        positionals=[Positional("ID", "jobs", "any", "jobs (12) and pipelines (p3), to compare: at most 16 jobs")],
        options=[
            Option("-o --output", "draw into this file: .png, .svg or .pdf", "FILE", "file"),
            Option("--terminal", "draw in characters, as without -o"),
            Option("--attempt", "this attempt of a job, not its last one", "K", "number"),
            Option("--machine", "the machine's cards: who had which of them, and when"),
            Option("--since", "with --machine: from then on: how long ago (12h, 7d) or a date", "TIME"),
        ],
        description="Utilisation, memory and power of each card over the time since the start, how long the job had\n"
        "waited, and what its processes used. Files take matplotlib: pip install runnersd[plot].",
        to="plot",
        examples=["plot 12", "plot 12 13 -o compared.png", "plot p3 -o p3.svg", "plot --machine --since 7d"],
    ),
    Command(
        "usage",
        "usage:usage",
        "who has had the cards, and what came of it",
        group=_LOOK,
        options=[
            Option("--by", "a row for each user (unless given), pipeline or script", "WHAT", "by"),
            Option("--since", "only what ran since then: how long ago (12h, 7d) or a date", "TIME"),
            _JSON,
            Option("--csv", "comma-separated, with a heading: seconds, joules, percent"),
        ],
        to="show the usage",
        examples=["usage", "usage --by script --since 7d", "usage --by pipeline --since 2026-01-01 --csv"],
    ),
    Command(
        "cancel",
        "change:cancel",
        "take jobs out of the queue, or stop them",
        group=_CHANGE,
        positionals=[_IDS],
        options=[Option("--now", "kill at once, without the grace period"), _DRY_RUN, _JSON],
        examples=["cancel 12", "cancel p3 --now"],
    ),
    Command(
        "hold",
        "change:hold",
        "keep queued jobs from starting",
        group=_CHANGE,
        positionals=[_IDS],
        options=[_DRY_RUN, _JSON],
        examples=["hold p3"],
    ),
    Command(
        "release",
        "change:release",
        "let held jobs start",
        group=_CHANGE,
        positionals=[_IDS],
        options=[_DRY_RUN, _JSON],
        examples=["release p3"],
    ),
    Command(
        "retry",
        "change:retry",
        "queue the unsuccessful jobs once more, as a new pipeline",
        group=_CHANGE,
        positionals=[_IDS],
        options=[_JSON],
        description="Needs on jobs that have succeeded count as met.",
        examples=["retry p3"],
    ),
    Command(
        "priority",
        "change:priority",
        "move queued jobs forward or back",
        group=_CHANGE,
        positionals=[
            Positional("ID", "jobs", "one", "a job (12), or a pipeline (p3)"),
            Positional("N", "number", "one", "-100 to 100; above 0 is for operators"),
        ],
        options=[_DRY_RUN, _JSON],
        to="change the priority",
        examples=["priority 12 -10", "priority 12 -10 --dry-run"],
    ),
    Command(
        "update",
        "change:update",
        "change a queued job; of a running one its time limit and name",
        group=_CHANGE,
        positionals=[
            Positional("ID", "jobs", "one", "a job (12), or a pipeline (p3)"),
            Positional("KEY=VALUE", "assignment", "some", "keys of the pipeline file, sizes and times as there"),
        ],
        options=[_DRY_RUN, _JSON],
        examples=["update 12 time_limit=4h", "update 12 num_gpus=2 gpu_memory=20GiB", "update 12 env.SEED=3"],
    ),
    Command(
        "gpus", "gpus:gpus", "the cards", group=_DAEMON, options=[_JSON], examples=["gpus --json"], to="show the cards"
    ),
    Command(
        "drain",
        "gpus:drain",
        "let cards' jobs end and give them to no other",
        group=_DAEMON,
        positionals=[Positional("GPU", "gpu", "some", "its index, its UUID or the beginning of it")],
        options=[_REASON, _JSON],
        examples=['drain 3 --reason "fan is loud"', "drain 0 1"],
    ),
    Command(
        "undrain",
        "gpus:undrain",
        "use drained cards again",
        group=_DAEMON,
        positionals=[Positional("GPU", "gpu", "some", "its index, its UUID or the beginning of it")],
        options=[_JSON],
        examples=["undrain 3"],
    ),
    Command(
        "reserve",
        "reserve:reserve",
        "book cards for some time, now or later",
        group=_DAEMON,
        options=[
            Option("-g --gpus", "how many cards", "N", "number"),
            Option("--gpu-model", "cards whose name fits this glob", "GLOB"),
            Option("--gpu-capability", "cards of at least this compute capability (8.0)", "X.Y"),
            Option("--cards", "these cards: indices or UUIDs, with commas", "LIST", "gpu"),
            Option("--for", "for how long (30m, 4h, 2d)", "TIME"),
            Option("--at", "from when on: an ISO time, or +2h; now if not given", "TIME"),
            _REASON,
            Option("--list", "show the bookings; so does `reserve` alone"),
            Option("--cancel", "take a booking back", "ID"),
            _JSON,
        ],
        description="The queue flows round a booking: jobs of others that could still run when it begins do not start\n"
        "on its cards. Jobs that run there already are not stopped. Your own jobs go there first.",
        to="reserve cards",
        examples=[
            "reserve --gpus 2 --for 4h",
            "reserve --cards 0,1 --for 1d --at 2026-01-31T18:00",
            "reserve --cancel 3",
        ],
    ),
    Command(
        "pause",
        "daemon:pause",
        "start nothing new; what runs goes on",
        group=_DAEMON,
        options=[_REASON, _JSON],
        examples=['pause --reason "driver update at 18:00"'],
    ),
    Command("resume", "daemon:resume", "start jobs again", group=_DAEMON, options=[_JSON]),
    Command(
        "up",
        "daemon:up",
        "start a daemon of your own, if none answers",
        group=_DAEMON,
        options=[_JSON],
        description="Its log is runnersd.log in the state directory.",
        to="start a daemon",
        examples=["up"],
    ),
    Command(
        "down",
        "daemon:down",
        "stop your own daemon when it is idle",
        group=_DAEMON,
        options=[Option("--now", "cancel its jobs first"), _JSON],
        to="stop the daemon",
        examples=["down", "down --now"],
    ),
    Command(
        "caches",
        "caches:caches",
        "zarr caches: how large, who made and who uses them; remove some",
        group=_DAEMON,
        positionals=[
            Positional("ACTION", "caches", "maybe", "ls (unless given), show, verify, rm or prune"),
            Positional("CACHE", "cache", "any", "a cache, by its name or the beginning of it"),
        ],
        options=[
            Option("--keep", "prune: those used longest ago, until the rest takes at most this (500GiB)", "SIZE"),
            Option("--unused", "prune: those not used for this long (30d)", "TIME"),
            Option("-n --dry-run", "rm, prune: only say what would go"),
            Option("--directory", "where caches are (default: $CACHE_DIRECTORY, the daemon's)", "PATH", "file"),
            _JSON,
        ],
        description="Never removes one that is in use, or that a queued job has in its RUNNERS_CACHES.\n"
        "`verify` reads everything and exits 1 when something is damaged. Needs no daemon.",
        to="look after caches",
        examples=["caches", "caches show musdb-3f2a", "caches prune --keep 500GiB --unused 30d --dry-run"],
    ),
    Command(
        "completion",
        "completion:completion",
        "a script that completes commands, options, jobs and files",
        group=_SHELL,
        positionals=[Positional("SHELL", "shell", "one", "bash, zsh or fish")],
        description="bash:  source <(runners-client completion bash)\n"
        "zsh:   source <(runners-client completion zsh)\n"
        "fish:  runners-client completion fish | source",
        to="make a completion script",
        examples=["completion bash > ~/.local/share/bash-completion/completions/runners-client"],
    ),
)


def find(name: str) -> Command | None:
    """The command of that name."""
    return next((command for command in COMMANDS if command.name == name), None)
