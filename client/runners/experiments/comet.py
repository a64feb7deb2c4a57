"""Comet, where it is wanted and there: online, else offline into the experiment's folder, else not at all.

Comet may be away, slow, or refuse the key. None of that makes a job fail or wait: what takes longer than its deadline
counts as away, and the experiment goes on offline. The API key is left where it is, in the environment.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shlex
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, Literal

#: `1` makes experiments offline. A job with `comet_offline: true` has it.
OFFLINE = "RUNNERS_COMET_OFFLINE"
#: Seconds that Comet has to say that it is there at all.
ANSWERS_WITHIN = 5.0
#: Comet's own limits on what a process waits for it, in seconds and numbers, where the environment has no others. Its
#: defaults are minutes for a beginning and hours for an end.
_LIMITS = {
    "COMET_TIMEOUT_HTTP": "5",
    "COMET_GET_OR_ADD_EXPERIMENT_RETRY_TOTAL": "1",
    "COMET_HTTP_SESSION_RETRY_TOTAL": "1",
    "COMET_TIMEOUT_CLEANING": "30",
    "COMET_TIMEOUT_UPLOAD": "30",
    "COMET_TIMEOUT_FILE_UPLOAD": "30",
    "COMET_ERROR_TRACKING_ENABLE": "false",
}

Mode = Literal["online", "offline"]

log = logging.getLogger(__name__)


def wanted(environment: Mapping[str, str], config: Mapping[str, Any]) -> Mode | None:
    """How an experiment is to be followed. Offline where the job or `info.comet_offline` asks for that; online where
    there is an API key; else not at all.

    >>> wanted({"COMET_API_KEY": "s3cret"}, {"info": {}})
    'online'
    >>> wanted({"COMET_API_KEY": "s3cret"}, {"info": {"comet_offline": True}})
    'offline'
    >>> wanted({}, {"info": {}}) is None
    True
    """
    if environment.get(OFFLINE) == "1" or config["info"].get("comet_offline"):
        return "offline"
    return "online" if environment.get("COMET_API_KEY") else None


def connect(config: Mapping[str, Any]) -> Any:
    """The Comet experiment of a configuration that has its key and folder: new, or gone on with where Comet knows it.

    None where it is not wanted, comet_ml is not installed, or cannot take the key.
    """
    from .configs import fits_comet

    info = config["info"]
    key, folder = info["experiment_key"], info["output_folder"]
    mode = wanted(os.environ, config)
    if mode is None:
        return None
    if not fits_comet(key):
        log.warning("experiment %s is not followed on Comet: it takes keys of 32 to 50 letters and digits", key)
        return None
    if importlib.util.find_spec("comet_ml") is None:
        log.warning("experiment %s is not followed on Comet: pip install 'runnersd[experiments]'", key)
        return None
    for name, limit in _LIMITS.items():
        os.environ.setdefault(name, limit)
    if mode == "online":
        try:
            _ask()
            return _start(info, online=True)
        except Exception as error:  # noqa: BLE001  # whatever Comet or the network raises, the job goes on
            log.warning("experiment %s goes on offline: Comet is away: %s", key, error)
    try:
        experiment = _start(info, online=False)
    except Exception as error:  # noqa: BLE001  # as above
        log.warning("experiment %s is not followed on Comet: %s", key, error)
        return None
    log.info("experiment %s is kept offline; upload it with: %s", key, upload_command(folder, key))
    return experiment


def upload_command(folder: str, key: str) -> str:
    """The command that sends an experiment's offline archives to Comet. It needs the network and `COMET_API_KEY`.

    >>> upload_command("/srv/my results/k3y", "k3y")
    "comet upload '/srv/my results/k3y'/k3y*.zip"
    """
    return f"comet upload {shlex.quote(folder)}/{key}*.zip"


def _start(info: Mapping[str, Any], online: bool) -> Any:
    import comet_ml

    os.makedirs(info["output_folder"], exist_ok=True)
    settings = comet_ml.ExperimentConfig(
        offline_directory=info["output_folder"], auto_metric_logging=False, display_summary_level=0
    )
    experiment = comet_ml.start(
        project_name=info.get("project_name"),
        experiment_key=info["experiment_key"],
        mode="get_or_create",
        online=online,
        experiment_config=settings,
    )
    if online and not getattr(experiment, "alive", True):
        experiment.end()
        raise ConnectionError("it did not take the experiment")
    return experiment


def _ask() -> None:
    """See that something answers where Comet should be. The lookup of its name can hang too: hence the thread.

    Raises:
        OSError: nothing does in time, or it says that it cannot serve.
    """
    from comet_ml.config import get_backend_address

    url = get_backend_address().rstrip("/") + "/isAlive/ver"
    answer: Future[None] = Future()
    threading.Thread(target=_answer, args=(url, answer), name="comet", daemon=True).start()
    try:
        answer.result(ANSWERS_WITHIN)
    except TimeoutError:
        raise TimeoutError(f"{url} did not answer in {ANSWERS_WITHIN:g} s") from None


def _answer(url: str, answer: Future[None]) -> None:
    import urllib.error
    import urllib.request

    try:
        urllib.request.urlopen(url, timeout=ANSWERS_WITHIN).close()
    except urllib.error.HTTPError as error:
        if error.code >= 500:
            answer.set_exception(error)
            return
    except Exception as error:  # noqa: BLE001  # it is raised where the answer is waited for
        answer.set_exception(error)
        return
    answer.set_result(None)
