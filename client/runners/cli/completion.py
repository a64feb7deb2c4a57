"""`completion`: what a shell asks for at every TAB. The scripts are a few lines; what fits is worked out here.

A script calls `runners-client __complete -- WORDS...` with the words so far, the last of them the one to complete, and
gets a line for each word that fits: the word, a TAB, what it is. A last line `:file` asks for names of files as well,
`:command` for a command and its own words.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence

from runners.client import Client
from runners.errors import InvalidRequest, RunnersError
from runners.render import words as said

from .commands import COMMANDS, find
from .options import COMMON, Command, Option, Words, is_id

#: States whose jobs a command is usually about; the others are not offered.
_STATES = {
    "cancel": (*said.WAITING, *said.LIVE),
    "hold": ("queued",),
    "release": ("held",),
    "priority": said.WAITING,
    "update": (*said.WAITING, "running"),
    "retry": ("failed", "cancelled", "timed_out", "skipped"),
    "wait": (*said.WAITING, *said.LIVE),
    "plot": (*said.LIVE, "succeeded", "failed", "cancelled", "timed_out"),
}
#: Jobs offered at most: nobody reads more.
_MOST = 200
#: Seconds that a person waits for a TAB.
_TIMEOUT = 2.0

_BASH = r"""# bash completion for runners-client
_runners_client() {
    local words=() word line rest files=
    # The words up to the cursor, put together again where bash has cut them at = and :
    local before=${COMP_LINE:0:COMP_POINT}
    read -ra words <<< "$before"
    [[ $before == *[[:space:]] ]] && words+=("")
    word=${words[${#words[@]} - 1]}
    COMPREPLY=()
    while IFS= read -r line; do
        case $line in
            :file) files=1 ;;
            :command) COMPREPLY+=($(compgen -A command -f -- "$word")) ;;
            *) COMPREPLY+=("${line%%$'\t'*}") ;;
        esac
    done < <("${words[0]/#\~/$HOME}" __complete -- "${words[@]:1}" 2>/dev/null)
    if [[ $files ]]; then
        compopt -o filenames 2>/dev/null
        while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "$word")
    fi
    # Only what follows the last = is still to be typed.
    if [[ $word == *=* && $COMP_WORDBREAKS == *=* ]]; then
        rest=${word%"${word##*=}"}
        COMPREPLY=("${COMPREPLY[@]#"$rest"}")
    fi
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
    return 0
}
complete -F _runners_client runners-client
"""

_ZSH = r"""#compdef runners-client
_runners_client() {
    local -a offered
    local line word text
    while IFS= read -r line; do
        case $line in
            :file) _files ;;
            :command) _command_names -e; _files ;;
            *)
                word=${line%%$'\t'*} text=${line#*$'\t'}
                offered+=("${word//:/\\:}:$text")
                ;;
        esac
    done < <(${words[1]/#\~/$HOME} __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)
    (( $#offered )) && _describe -V 'runners-client' offered
}
if [[ $funcstack[1] == _runners_client ]]; then
    _runners_client "$@"
else
    compdef _runners_client runners-client
fi
"""

_FISH = r"""# fish completion for runners-client
function __runners_client_complete
    set -l given (commandline -opc) (commandline -ct)
    set -l program (string replace -r '^~' $HOME -- $given[1])
    for line in ($program __complete -- $given[2..-1] 2>/dev/null)
        switch $line
            case ':file' ':command'
                __fish_complete_path (commandline -ct)
                if test $line = ':command'
                    __fish_complete_command
                end
            case '*'
                echo $line
        end
    end
end
complete -c runners-client -f -a '(__runners_client_complete)'
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def completion(words: Words) -> int:
    """Print a shell's script."""
    shell = words.required("SHELL")
    if shell not in SCRIPTS:
        raise InvalidRequest(f"cannot complete in {shell!r}: there are scripts for {', '.join(SCRIPTS)}")
    sys.stdout.write(SCRIPTS[shell])
    return 0


def complete(arguments: Sequence[str]) -> int:
    """Print what fits in place of the last word. Says nothing where it knows nothing: a TAB must not fail."""
    given = list(arguments[1:] if arguments[:1] == ["--"] else arguments) or [""]
    for word, about in offers(given):
        sys.stdout.write(f"{word}\t{about}\n" if about else f"{word}\n")
    return 0


def offers(given: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Every word that may stand in place of the last of ``given``, with what it is."""
    *before, last = given
    socket = None
    while before and before[0].startswith("-"):
        if before[0] == "--socket" and len(before) > 1:
            socket = before[1]
            before = before[1:]
        before = before[1:]
    if not before:
        everything = [(one.name, one.summary) for one in COMMANDS]
        if last.startswith("-"):
            everything = [(flag, option.help) for option in COMMON for flag in option.flags]
        return [offer for offer in everything if offer[0].startswith(last)]
    command = find(before[0])
    if command is None:
        return []
    return [offer for offer in _of_command(command, before[1:], last, socket) if offer[0].startswith((last, ":"))]


def _of_command(command: Command, before: Sequence[str], last: str, socket: str | None) -> list[tuple[str, str]]:
    options = (*command.options, *COMMON)
    by_flag = {flag: option for option in options for flag in option.flags}
    open_option: Option | None = None
    loose: list[str] = []
    for position, word in enumerate(before):
        if word == "--":
            loose += before[position + 1 :]
            return _of_kind(_positional(command, loose), command, last, loose, socket)
        option = by_flag.get(word)
        if option is not None and option.metavar:
            open_option = option
            socket = before[position + 1] if option.kind == "socket" and position + 1 < len(before) else socket
        elif option is None and not word.startswith("-"):
            if open_option is None or not (open_option.kind == "ids" and is_id(word)):
                if open_option is None:
                    loose.append(word)
                open_option = None
        else:
            open_option = None
    if open_option is not None and open_option.kind != "ids":
        return _of_kind(open_option.kind, command, last, (), socket)
    flag, equals, _value = last.partition("=")
    if equals and flag in by_flag:
        return [(f"{flag}={word}", about) for word, about in _of_kind(by_flag[flag].kind, command, last, (), socket)]
    if last.startswith("-"):
        return [
            (flag, option.help)
            for option in options
            for flag in option.flags
            if option.kind == "ids" or not any(other in before for other in option.flags)
        ]
    found = _of_kind("jobs", command, last, before, socket) if open_option is not None else []
    if open_option is not None and before and before[-1] in open_option.flags:
        return found  # its value comes first
    return found + _of_kind(_positional(command, loose), command, last, loose, socket)


def _positional(command: Command, loose: Sequence[str]) -> str:
    """The kind of the next loose word."""
    kinds = [one.kind for one in command.positionals]
    if command.positionals and command.positionals[-1].count != "one":
        return kinds[min(len(loose), len(kinds) - 1)]
    return kinds[len(loose)] if len(loose) < len(kinds) else "none"


def _of_kind(kind: str, command: Command, last: str, given: Sequence[str], socket: str | None) -> list[tuple[str, str]]:
    if kind in ("file", "socket"):
        return [(":file", "")]
    if kind == "command":
        return [(":file", "") if given else (":command", "")]
    if kind == "caches":
        return [(action, "") for action in ("ls", "show", "verify", "rm", "prune")]
    if kind == "cache":
        return _caches(given)
    if kind == "by":
        return [(what, "") for what in ("user", "pipeline", "script")]
    if kind == "shell":
        return [(shell, "") for shell in SCRIPTS]
    if kind == "assignment":
        from runners.pipeline.schema import JOB_KEYS

        return [] if "=" in last else [(f"{key}=", "") for key in JOB_KEYS]
    try:
        client = Client(socket, timeout=_TIMEOUT)
        if kind == "gpu":
            offers = [(str(gpu["index"]), f"{gpu['name']}, {gpu['state']}") for gpu in client.gpus()]
            return [offer for offer in offers if offer[0] not in given]
        if kind in ("job", "jobs", "ids"):
            return _jobs(client, command, kind != "job", given)
    except RunnersError:
        return []  # no daemon, no ids
    return []


def _caches(given: Sequence[str]) -> list[tuple[str, str]]:
    """The caches of `$CACHE_DIRECTORY`, for what is done to some of them."""
    from runners.cache import layout, upkeep

    if given[0] in ("ls", "prune"):
        return []
    try:
        with layout.opened(layout.chosen_directory(os.environ.get("CACHE_DIRECTORY"))) as directory:
            found = upkeep.entries(directory)
    except (RunnersError, OSError):
        return []
    return [(one.id, said.size(one.bytes)) for one in found if one.id not in given]


def _jobs(client: Client, command: Command, pipelines: bool, given: Sequence[str]) -> list[tuple[str, str]]:
    states = _STATES.get(command.name)
    jobs = [job for job in client.status(limit=_MOST)["jobs"] if states is None or job["state"] in states]
    found = [(str(job["id"]), f"{said.clean(job['name'])}, {job['state']}, {job['user']}") for job in jobs]
    if pipelines:
        of: dict[str, int] = {}
        for job in jobs:
            of[job["pipeline"]] = of.get(job["pipeline"], 0) + 1
        found += [(id, said.count(number, "job")) for id, number in of.items()]
    return [offer for offer in found if offer[0] not in given]
