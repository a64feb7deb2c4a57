"""How things look: nothing wraps, nothing a stranger named can move the cursor, everything important is there."""

from __future__ import annotations

import re
import time
from typing import Any, cast

import pytest

from runners import api
from runners.render import lines, plain, words
from runners.render.detail import detail
from runners.render.progress import Pipeline, block, finished
from runners.render.status import STATES, card_name, closest, ranges, screen

from .conftest import gpu_view, job_view, status_view


def drawn(view: Any, most: int = 100, **keys: Any) -> list[str]:
    return [lines.paint(line, most, False) for line in screen(view, most, time.time(), 1001, **keys)]


def busy() -> dict[str, Any]:
    """A machine with everything on it."""
    reasons = {"failed": ("exit_code", "exited with code 3"), "queued": ("no_free_gpu", "needs 2 cards: 1 free; " * 5)}
    jobs = []
    for number, state in enumerate(api.JobState):
        code, text = reasons.get(state, ("ok", f"sentence about {state}"))
        name = f"train[lr=0.000{number},model=resnet-{number}" + ",x" * 40 + f",fold={number}]"
        jobs.append(
            job_view(
                number + 1,
                str(state),
                name=name,
                user="bartholomew-the-third",
                num_gpus=2,
                gpus=["GPU-00000000", "GPU-00000001"] if state == "running" else [],
                reason={"code": code, "text": text},
                attempt=3,
                expected_start=time.time() + 1800,
            )
        )
    gpus = [
        gpu_view(0, state="reserved", jobs=[4], memory_used=79 << 30, utilization=100, power=700.4),
        gpu_view(1, state="shared", jobs=[4, 5, 999]),
        gpu_view(2, state="foreign", foreign_pids=[4242], reason="used by python3 (pid 4242, uid 1007)"),
        gpu_view(3, state="drained", drained={"reason": "the fan is loud " * 9, "by": "root", "at": time.time() - 60}),
        gpu_view(4, state="lost", memory_total=None, memory_used=None, utilization=None, power=None, temperature=None),
        gpu_view(10, name="NVIDIA GeForce RTX 4090", memory_used=0),
    ]
    return status_view(jobs, gpus, paused="driver update", notice="x" * 300)


@pytest.mark.parametrize(("away", "said"), [(600.0, "kept for 12 (ann), about "), (-1.0, "kept for 12 (ann)")])
def test_a_free_card_that_is_kept_says_for_whom(away: float, said: str) -> None:
    now = time.time()
    kept = {"job": 12, "user": "ann", "at": now + away}
    card = gpu_view(0, kept=kept)
    line = next(line for line in drawn(status_view([], [card]), 120) if " free " in line)
    assert (said in line, line.rstrip().endswith(said)) == (True, away < 0)
    assert said in plain.cards([card], now)[1]


@pytest.mark.parametrize("most", [80, 81, 95, 96, 100, 133, 200, 40])
@pytest.mark.parametrize("history", [{}, {"GPU-00000000": [None, 0, 50, 100]}])
def test_no_line_is_wider_than_the_terminal(most: int, history: dict[str, list[int | None]]) -> None:
    for line in drawn(busy(), most, history=history):
        assert lines.width(line) <= most, line


def test_a_screen_of_100_columns_has_what_matters() -> None:
    text = "\n".join(drawn(busy()))
    for expected in (
        "A100-SXM4-80GB",
        "RTX 4090",
        "79/80 GiB",
        "100%",
        "700W",
        "reserved",
        "foreign",
        "used by python3",
    ):
        assert expected in text
    assert "Running 3" in text
    assert "Queued 2" in text
    assert "Finished" in text
    assert "paused: driver update" in text
    for state in api.JobState:
        assert f" {STATES[state][0]} {state.replace('_', ' ')}" in text
    assert re.search(r"train\[.*….*fold=3\]", text), "both ends of a long name are kept"
    assert "999" in text, "a job that is not in the list is still named on its card"


def test_cards_come_first_then_live_queued_finished() -> None:
    view = status_view([job_view(1, "running"), job_view(2, "queued"), job_view(3, "failed")], [gpu_view(0)])
    text = "\n".join(drawn(view))
    places = [text.index(word) for word in ("A100", "Running", "Queued", "Finished")]
    assert places == sorted(places)


def test_a_job_whose_cards_do_nothing_stands_out() -> None:
    why = {"code": "idle", "text": "runs; its card has done nothing for 42m"}
    jobs = [job_view(1, "running", idle_since=1.0, reason=why), job_view(2, "running")]
    text = drawn(status_view(jobs, [gpu_view(0)]), 120)
    assert " · 1 idle · " in text[0]
    [idle] = [line for line in text if why["text"] in line]
    assert "◍ idle " in idle and "● running" in next(line for line in text if line.startswith(" 2 "))
    assert "idle" not in "".join(drawn(status_view([job_view(2, "running")], [gpu_view(0)])))


@pytest.mark.parametrize(
    ("notify", "said"),
    [
        ({"email": "ann@lab"}, "ann@lab"),
        ({"webhook": "https://chat.lab/", "on": ["failure", "idle"]}, "https://chat.lab/, of failure, idle"),
        ({"on": []}, "as usual, of nothing"),
    ],
)
def test_show_says_who_is_told(notify: dict[str, Any], said: str) -> None:
    full = {**job_view(1, "running"), "spec": {"notify": notify}, "attempts": [], "events": []}
    shown = [lines.paint(line, 200, False) for line in detail(cast(Any, full), {}, time.time())]
    assert f"  notify      {said}" in shown


@pytest.mark.parametrize(("away", "said"), [(7200.0, "(in 2h)"), (-7200.0, "(2h ago)")])
def test_show_says_when_a_job_may_begin(away: float, said: str) -> None:
    now = time.time()
    full = {**job_view(1, "queued"), "spec": {"begin": now + away}, "attempts": [], "events": []}
    shown = [lines.paint(line, 200, False) for line in detail(cast(Any, full), {}, now)]
    assert f"  begin       {words.clock(now + away, now)} {said}" in shown


def test_show_says_how_long_a_job_waited_for_its_first_start() -> None:
    now = time.time()
    attempts = [{"attempt": k, "state": "failed", "reason": {"code": "exit_code", "text": ""}, "exit_code": 1, "gpus": [], "started_at": now - 700 + 60 * k, "finished_at": now - 690 + 60 * k} for k in (1, 2)]  # fmt: skip
    begun = job_view(1, "failed", submitted_at=now - 730, started_at=now - 580)
    for tried, said in ((attempts, "1m 30s"), ([], "2m 30s")):
        full = {**begun, "spec": {}, "attempts": tried, "events": []}
        shown = [lines.paint(line, 200, False) for line in detail(cast(Any, full), {}, now)]
        assert f"  waited      {said}" in shown


def test_the_queue_says_how_much_of_it_is_shown() -> None:
    view = status_view([job_view(2, "queued")])
    view["counts"] = {"queued": 4711}
    assert any("Queued 1 of 4711" in line for line in drawn(view))


def test_an_empty_machine() -> None:
    text = "\n".join(drawn(status_view([], notice="no cards: no driver")))
    assert "no jobs yet" in text
    assert "no cards: no driver" in text


def test_every_state_has_a_sign_and_the_groups_are_the_contracts() -> None:
    assert set(STATES) == {str(state) for state in api.JobState}
    assert set(words.LIVE) == set(api.LIVE)
    assert set(words.WAITING) == set(api.WAITING)
    assert set(words.SETTLED) == set(api.SETTLED)


def test_control_characters_of_others_are_not_shown() -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\r\n\u202e"
    job = job_view(1, "failed", name=f"a{evil}", user=f"u{evil}", reason={"code": "exit_code", "text": f"r{evil}"})
    view = status_view([job], [gpu_view(0, name=evil, reason=evil)], paused=evil, notice=evil)
    now = time.time()
    pipeline = Pipeline("p1", f"n{evil}", {1: evil}, now)
    pipeline.take(cast(Any, {**job, "state": "running"}))
    pipeline.said[1] = evil
    full = {**job, "spec": {"command": f"x{evil}", "env": {"A": evil}}, "attempts": [], "events": [], "cwd": evil}
    shown = [*drawn(view), *plain.status(cast(Any, view), now)]
    shown += [lines.paint(line, 200, False) for line in block([pipeline], now, 200, 9, 20)]
    shown += [lines.paint(line, 200, False) for line in detail(cast(Any, full), {}, now)]
    shown.append(lines.paint(finished(cast(Any, job), now, 20), 200, False))
    for line in shown:
        assert line.replace("⏎", "").isprintable(), repr(line)


def test_colour_is_only_there_when_wanted_and_takes_no_room() -> None:
    line: lines.Line = [("abc", "red"), ("defgh", "bold")]
    assert lines.paint(line, 100, False) == "abcdefgh"
    assert lines.paint(line, 100, True) == "\x1b[31mabc\x1b[0m\x1b[1mdefgh\x1b[0m"
    assert re.sub("\x1b\\[[0-9;]*m", "", lines.paint(line, 5, True)) == "abcd…"[:5]


@pytest.mark.parametrize(
    ("text", "most", "cut"),
    [
        ("abcdef", 6, "abcdef"),
        ("abcdefg", 6, "abc…fg"),
        ("abcdefg", 5, "ab…fg"),
        ("abc", 1, "…"),
        ("日本語テキスト", 7, "日…スト"),
    ],
)
def test_cut_in_the_middle(text: str, most: int, cut: str) -> None:
    found = lines.middle(text, most)
    assert lines.width(found) <= most
    assert found == cut


def test_wide_characters_take_two_columns() -> None:
    assert lines.width("日本") == 4
    assert lines.width("e\u0301") == 1
    assert lines.end("日本語", 5) == "日本…"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "-"), (-3, "0s"), (59.9, "59s"), (60, "1m 00s"), (3599, "59m 59s"), (3725, "1h 02m"), (90000, "1d 01h")],
)
def test_durations(seconds: float | None, said: str) -> None:
    assert words.duration(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"), [(None, "-"), (0, "0 B"), (1536, "1.5 KiB"), (20 << 30, "20 GiB"), (1 << 50, "1024 TiB")]
)
def test_sizes(count: int | None, said: str) -> None:
    assert words.size(count) == said


@pytest.mark.parametrize(
    ("given", "short"),
    [
        ("", ""),
        ("0", "0"),
        ("0,1", "0,1"),
        ("0,1,2,3,6", "0-3,6"),
        ("0,2,4", "0,2,4"),
        ("0,1,?", "0,1,?"),
        ("2 cards", "2 cards"),
    ],
)
def test_ranges(given: str, short: str) -> None:
    assert ranges(given) == short


def test_card_names() -> None:
    assert card_name("NVIDIA GeForce RTX 4090") == "RTX 4090"
    assert card_name("NVIDIA A100-SXM4-80GB") == "A100-SXM4-80GB"


def test_a_pipe_gets_every_word() -> None:
    text = plain.status(cast(Any, busy()), time.time())
    head = next(line for line in text if line.startswith("ID"))
    assert head.split() == ["ID", "PIPELINE", "NAME", "USER", "STATE", "GPUS", "TIME", "STARTS_IN", "REASON"]
    row = next(line for line in text if " failed " in line).split()
    assert row[0] == "7"
    assert row[2].endswith("fold=6]")
    assert row[3] == "bartholomew-the-third"
    assert not any("\x1b" in line or "…" in line for line in text)


def test_progress_counts_and_bars() -> None:
    now = time.time()
    pipeline = Pipeline("p1", "demo", {number: f"job{number}" for number in range(1, 9)}, now - 60)
    for job in (job_view(1, "succeeded"), job_view(2, "failed"), job_view(3, "running"), job_view(4, "running")):
        pipeline.take(cast(Any, job))
    pipeline.take(cast(Any, job_view(3, "succeeded")))
    pipeline.said[4] = "epoch 3"
    pipeline.next = "job5 waits"
    shown = [lines.paint(line, 100, False) for line in block([pipeline], now, 100, 10, 10)]
    assert "3/8 · 1 running · 4 queued · 1 failed · 1m 00s" in shown[0]
    assert shown[0].count("━") == 16
    assert "job4" in shown[1] and shown[1].endswith("epoch 3")
    assert shown[2] == "   next: job5 waits"


def test_progress_stays_in_its_rows() -> None:
    now = time.time()
    pipelines = [Pipeline(f"p{p}", "x", {p * 100 + n: "j" for n in range(50)}, now) for p in range(1, 4)]
    for pipeline in pipelines:
        for id in pipeline.names:
            pipeline.take(cast(Any, job_view(id, "running")))
    shown = block(pipelines, now, 100, 16, 10)
    assert len(shown) <= 16
    text = "\n".join(lines.paint(line, 100, False) for line in shown)
    assert all(f" p{p} x" in text for p in range(1, 4))
    assert "more" in text


def test_the_page_of_a_job() -> None:
    now = time.time()
    job = job_view(
        12,
        "failed",
        num_gpus=2,
        gpus=["GPU-00000000", "GPU-00000001"],
        exit_code=3,
        attempt=2,
        reason={"code": "exit_code", "text": "exited with code 3"},
        spec={
            "name": "job12",
            "command": ["python", "a b.py"],
            "num_gpus": 2,
            "gpu_memory": 20 << 30,
            "time_limit": 7200.0,
            "needs": [{"job": "prep", "on": "finished"}],
            "gpu_shared": True,
            "env": {"A": "1"},
        },
        attempts=[
            {
                "attempt": 1,
                "state": "failed",
                "reason": {"code": "signal", "text": "killed by SIGKILL (9)"},
                "exit_code": 137,
                "gpus": ["GPU-00000001"],
                "started_at": now - 300,
                "finished_at": now - 200,
                "contaminated": [
                    {
                        "gpu": "GPU-00000001",
                        "pid": 4242,
                        "user": "bob",
                        "uid": 1007,
                        "program": "train",
                        "memory": 2 << 30,
                        "since": now - 290,
                        "until": now - 250,
                    }
                ],
                "telemetry": {
                    "seconds": 100.0,
                    "samples": 101,
                    "energy": 180000.0,
                    "gpus": [
                        {
                            "uuid": "GPU-00000001",
                            "index": 1,
                            "memory_total": 80 << 30,
                            "utilization": {"mean": 36.2, "peak": 98, "seconds": 100.0},
                            "memory": {"mean": 6.1 * (1 << 30), "peak": 7.9 * (1 << 30), "seconds": 100.0},
                            "power": {"mean": 180.4, "peak": 310.0, "seconds": 100.0},
                            "temperature": {"mean": None, "peak": None, "seconds": 0.0},
                            "idle": 64.0,
                            "energy": 18040.0,
                        }
                    ],
                    "process": {
                        "memory": {"mean": 3.0 * (1 << 30), "peak": 3.4 * (1 << 30), "seconds": 100.0},
                        "cpu": {"mean": 1.24, "peak": 4.0, "seconds": 99.0},
                    },
                    "verdict": ["card 1 idle 64 % of the time", "card 1: peak 7.9 GiB of 80"],
                },
            },
        ],
        events=[],
        pipeline_name="demo",
        cwd="/home/ann",
        logs={"stdout": "/x/12.out"},
    )
    text = "\n".join(
        lines.paint(line, 200, False) for line in detail(cast(Any, job), {"GPU-00000000": 0, "GPU-00000001": 1}, now)
    )
    for expected in (
        "job 12",
        "✗ failed",
        "exited with code 3",
        "python 'a b.py'",
        "p1 demo",
        "ann (1001)",
        "/home/ann",
        "2 (index 0,1)",
        "20 GiB",
        "2h 00m",
        "prep (finished)",
        "gpu shared  yes",
        "A=1",
        "killed by SIGKILL",
        "1m 40s",
        "contaminated: train (pid 4242, bob) with 2 GiB on card 1, ",
        "     card 1  busy 36 % (peak 98)  memory 6.1 GiB (peak 7.9 of 80 GiB)  180 W (peak 310)\n",
        "     processes  memory 3 GiB (peak 3.4 GiB)  1.2 cpus (peak 4.0)  energy 50 Wh\n",
        "     card 1 idle 64 % of the time\n     card 1: peak 7.9 GiB of 80\n",
        "runners-client logs 12",
        "/x/12.out",
        "exit code   3",
    ):
        assert expected in text, expected


def linked(*islands: tuple[int, ...]) -> list[Any]:
    """Cards in islands of NVLink."""
    return [
        gpu_view(index, near={"by": "NV4", "gpus": [f"GPU-{other:08d}" for other in island if other != index]})
        for island in islands
        for index in island
    ]


def test_gpus_says_which_cards_are_close_in_a_pipe_and_on_a_terminal() -> None:
    gpus = linked((0, 1, 2, 3), (4, 5))
    rows = plain.cards(gpus, time.time(), near=True)
    assert rows[0].split()[8] == "NEAR" and [row.split()[-2] for row in rows[1:]] == [
        "NV4:1,2,3", "NV4:0,2,3", "NV4:0,1,3", "NV4:0,1,2", "NV4:5", "NV4:4",
    ]  # fmt: skip
    assert "NEAR" not in plain.cards(gpus, time.time())[0]
    assert "NEAR" not in plain.cards([gpu_view(0, near=None)], time.time(), near=True)[0]
    (line,) = closest(gpus)
    assert lines.paint(line, 80, False).strip() == "closest  NV4 0-3 · NV4 4,5"
    assert closest([gpu_view(0, near=None), gpu_view(1)]) == []


LONG = "needs 4 cards: 1 free, 1 held by 7 (bob) until about 22:41, 2 held by 4 (ann) until about Fri 27 Nov 03:11"


def waiting(id: int, text: str = LONG) -> dict[str, Any]:
    return job_view(id, "queued", reason={"code": "no_free_gpu", "text": text}, num_gpus=4, gpus=[])


@pytest.mark.parametrize("most", [80, 100, 120, 160])
def test_no_sentence_is_cut(most: int) -> None:
    drained = {"reason": "the fan of it is so loud that nobody can work", "by": "root", "at": time.time()}
    shown = drawn(status_view([waiting(1)], [gpu_view(0, state="drained", drained=drained)]), most)
    text = " ".join(" ".join(shown).split())
    assert LONG in text and "the fan of it is so loud that nobody can work (by root, since" in text
    assert max(map(lines.width, shown)) <= most


@pytest.mark.parametrize("most", [40, 60, 80, 100, 160])
def test_whoever_is_on_a_card_beside_its_job_is_named(most: int) -> None:
    holder = job_view(47, "running", name="fit[lr=0.001,seed=6]", user="ann", gpus=["GPU-00000000"])
    used = "used by python3 (pid 22608, bob)"
    gpus = [
        gpu_view(0, state="reserved", jobs=[47], foreign_pids=[22608], reason=used),
        gpu_view(1, state="foreign", foreign_pids=[22608], reason=used),
    ]
    shown = drawn(status_view([holder], gpus), most)
    text = " ".join(" ".join(shown).split())
    assert text.count(used) == 2
    assert re.search(r"reserved 47 fit\S+ ann", text) and text.index("reserved") < text.index("foreign")
    assert max(map(lines.width, shown)) <= most


def test_what_is_true_of_several_in_a_row_is_said_once() -> None:
    view = status_view([waiting(1), waiting(2), waiting(3), waiting(4, "is something else"), waiting(5)])
    text = "\n".join(drawn(view, 200))
    assert text.count(LONG) == 2
    assert [line.split()[0] for line in text.splitlines() if line.endswith("the same as 1")] == ["2", "3"]
    narrow = [line.split() for line in drawn(view, 80)]
    assert " ".join(" ".join(words) for words in narrow).count(LONG) == 2
    [place] = [number for number, words in enumerate(narrow) if words[:3] == ["all", "3:", "needs"]]
    assert [words[0] for words in narrow[place - 3 : place]] == ["1", "2", "3"], "below the last of them"


def test_a_character_that_is_wider_than_the_line_ends_a_fold() -> None:
    folded = lines.fold([("\u4e2d\u4e2d", "")], 1)
    assert ["".join(text for text, _style in line) for line in folded] == ["\u4e2d"] * 2


@pytest.mark.parametrize("most", [20, 40, 80, 120])
def test_a_line_is_folded_and_nothing_of_it_is_left_out(most: int) -> None:
    command = "python train.py --data /a/path/that/is/longer/than/any/line/of/a/small/terminal/and/has/no/space  --x 1"
    for line in (
        [("  command     ", "dim"), (command, "")],
        [(f"     contaminated: {LONG}", "yellow")],
        [
            ("job 12", "bold"),
            ("  train[" + "lr=0.001," * 12 + "]  ", "bold"),
            ("✗ failed", "red"),
            (" after 3s", "dim"),
        ],
        [("", "")],
        [],
    ):
        shown = lines.fold(line, most)
        assert max(map(lines.length, shown)) <= most
        text, whole = ("".join(part for spans in of for part, _ in spans) for of in (shown, [line]))
        assert text.replace(" ", "") == whole.replace(" ", "")
    shown = lines.fold([("  in   ", "dim"), ("one two three", "red")], 28)
    assert shown == [[("  in   ", "dim"), ("one two three", "red")]]
    assert lines.fold([("  in   ", "dim"), ("one two three four five", "red")], 28) == [
        [("  in   ", "dim"), ("one two three four", "red")],
        [("       ", ""), ("five", "red")],
    ]


def test_bookings_are_listed_under_the_cards_and_nowhere_without_any() -> None:
    now = time.time()
    one = {
        "id": 3, "user": "ann", "uid": 1001, "gpus": ["GPU-00000000", "gone"], "starts_at": now - 60, "ends_at": now + 60,
        "made_at": now, "reason": "demo", "active": True, "waits_for": [7], "text": "waits for job 7 (bob)",
    }  # fmt: skip
    later = {
        **one,
        "id": 12,
        "gpus": ["GPU-00000000"],
        "starts_at": now + 60,
        "active": False,
        "text": "",
        "reason": "",
    }
    view = status_view([], [gpu_view(0)], paused="x")
    assert "Booked" not in "\n".join(drawn(view))
    view["bookings"] = [one, later]
    shown = drawn(view)
    place = shown.index(" Booked")
    at = words.clock(now + 60, now)
    assert shown[place + 1].split() == [
        "3",
        "cards",
        "0,?",
        "ann",
        "until",
        at,
        *["waits", "for", "job", "7", "(bob)", "·", "demo"],
    ]
    assert shown[place + 2].split() == ["12", "card", "0", "ann", at, "to", at]
    narrow = drawn(view, 60)
    assert max(map(lines.width, narrow)) <= 60
    assert "waits for job 7 (bob) · demo" in " ".join(" ".join(narrow).split()), "no sentence is cut"
    plainly = "\n".join(plain.status(cast(Any, view), now))
    assert "BOOKING" in plainly and "waits for job 7 (bob)" in plainly


def test_text_is_broken_at_spaces_and_a_word_that_is_too_long_is_cut_in_its_middle() -> None:
    assert lines.wrap("one two  three", 7) == ["one two", "three"]
    assert lines.wrap("a incomprehensible b", 7) == ["a", "inc…ble", "b"]
    assert lines.wrap("", 7) == []
