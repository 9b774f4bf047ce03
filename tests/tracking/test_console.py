import io
import logging
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from rich.console import Console as RichConsole

from medgpt_ray.tracking.console import Console, sparkline

METRICS = {
    "reward/mean": 0.412,
    "reward/std": 0.2,
    "reward/exact": 0.25,
    "kl": 0.0123,
    "clip_fraction": 0.003,
    "entropy": 1.21,
    "completion_length/mean": 41.3,
    "truncated_share": 0.021,
    "logprob_difference/mean": 2.1e-5,
    "tokens_per_s/generate": 1234.0,
    "tokens_per_s/learn": 845.0,
    "time/generate": 2.0,
    "time/learn": 6.0,
    "time/step": 8.0,
}
SFT = {
    "loss": 2.31,
    "nll": 2.31,
    "perplexity": 10.1,
    "accuracy": 0.52,
    "tokens": 900.0,
    "learning_rate": 2e-5,
    "grad_norm": 1.5,
    "tokens_per_s/learn": 845.0,
    "epoch": 1.08,
    "progress": 0.36,
    "data/rejected": 0.0,
    "data/dropped": 7.0,
    "time/data": 2.0,
    "time/learn": 6.0,
    "time/step": 8.0,
}
HELDOUT = {"heldout/reward": 0.312, "heldout/ci_low": 0.25, "heldout/ci_high": 0.38}


def plain() -> tuple[RichConsole, io.StringIO]:
    text = io.StringIO()
    return RichConsole(file=text), text


class Terminal:
    """A real pseudo-terminal: `console` writes to it, `read` returns what came out."""

    def __init__(self, width: int) -> None:
        self._ours, theirs = os.openpty()
        self._file = os.fdopen(theirs, "w", encoding="utf-8")
        self.console = RichConsole(file=self._file, width=width, height=60, color_system=None)
        self._found = b""
        self._closed = threading.Event()
        # A terminal that nobody reads is full after a few panels, and the writer waits.
        self._reader = threading.Thread(target=self._drain)
        self._reader.start()

    def _drain(self) -> None:
        while not self._closed.is_set():
            if select.select([self._ours], [], [], 0.05)[0]:
                self._found += os.read(self._ours, 65536)

    def read(self) -> str:
        self._file.flush()
        length = -1
        while length < len(self._found):
            length = len(self._found)
            time.sleep(0.2)
        return self._found.decode()

    def close(self) -> None:
        self._closed.set()
        self._reader.join(timeout=60)
        self._file.close()
        os.close(self._ours)


@pytest.fixture
def terminal() -> Iterator[Callable[[int], Terminal]]:
    opened = []

    def open_one(width: int) -> Terminal:
        opened.append(Terminal(width))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def test_without_a_terminal_each_step_is_one_plain_line() -> None:
    output, text = plain()
    with Console(total_steps=10, first_step=1, output=output) as console:
        console.heldout(0, HELDOUT)
        for step in (1, 2):
            for phase in ("generate", "learn"):
                console.phase(phase)
            console.step(step, METRICS)
        console.notice("checkpoint [bold]step_2[/oops]")
    lines = text.getvalue().splitlines()
    assert lines[0] == "held-out after step 0: reward 0.312 [0.250, 0.380]"
    assert lines[1:3] == ["generate ...", "learn ..."]  # told once
    assert lines[3].startswith("step 1/10  reward 0.412  kl 0.0123  clip 0.3%  entropy 1.21")
    assert lines[3].endswith("8.00 s  ETA 1m 12s")
    assert lines[4].startswith("step 2/10")
    assert lines[4].endswith("ETA 1m 04s")
    assert lines[5:] == ["checkpoint [bold]step_2[/oops]"]
    assert "\x1b" not in text.getvalue()


def test_a_pipe_gets_plain_lines_even_with_forced_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    output, text = plain()
    with Console(total_steps=1, first_step=1, output=output) as console:
        console.step(1, METRICS)
    assert text.getvalue().count("\n") == 1


def test_the_panel_shows_the_step(terminal: Callable[[int], Terminal]) -> None:
    screen = terminal(110)
    with Console(total_steps=10, first_step=1, output=screen.console) as console:
        console.phase("generate")
        console.heldout(0, HELDOUT)
        console.step(1, METRICS)
    shown = screen.read()
    last = shown[shown.rindex("╭") :]
    for expected in (
        "step 1/10",
        "ETA 1m 12s",
        "exact                0.250",
        "tokens/s generate    1,234",
        "tokens/s learn         845",
        "KL to reference     0.0123",
        "clip fraction         0.3%",
        "entropy               1.21",
        "completion length     41.3",
        "truncated             2.1%",
        "log-prob difference  2.1e-05",
        "held-out after step 0: reward 0.312 [0.250, 0.380]",
        "25%",
        "75%",
        "done",
    ):
        assert " ".join(expected.split()) in " ".join(last.split()), expected


def test_the_panel_fits_a_narrow_terminal(terminal: Callable[[int], Terminal]) -> None:
    screen = terminal(30)
    with Console(total_steps=10, first_step=1, output=screen.console) as console:
        for step in range(1, 80):
            console.step(step, METRICS)
    shown = screen.read()
    lines = shown[shown.rindex("╭") :].splitlines()
    panel = [line for line in lines if line.startswith(("╭", "│", "╰"))]
    assert len(panel) > 15
    assert {len(line) for line in panel} == {30}


def test_prints_and_log_lines_stay_whole_above_the_panel(
    terminal: Callable[[int], Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = terminal(80)
    monkeypatch.setattr(sys, "stderr", screen.console.file)
    handler = logging.StreamHandler()  # made before the panel, as libraries do
    logger = logging.getLogger("test_console")
    logger.addHandler(handler)
    with Console(total_steps=10, first_step=1, output=screen.console) as console:
        console.step(1, METRICS)
        print("a print")
        logger.warning("a log line")
        console.notice("a notice")
    assert handler.stream is sys.stderr
    logger.removeHandler(handler)
    lines = screen.read().replace("\x1b[2K", "\r").replace("\r", "\n").splitlines()
    for text in ("a print", "a log line", "a notice"):
        assert any(line.removeprefix("\x1b[1A").strip() == text for line in lines), text


def interrupted(output: RichConsole) -> None:
    with Console(total_steps=1, first_step=1, output=output) as console:
        console.step(1, {})
        raise KeyboardInterrupt


@pytest.mark.parametrize("on_terminal", [True, False])
def test_an_exception_passes_through(
    on_terminal: bool, terminal: Callable[[int], Terminal]
) -> None:
    screen = terminal(80)
    output = screen.console if on_terminal else plain()[0]
    with pytest.raises(KeyboardInterrupt):
        interrupted(output)
    if on_terminal:
        assert "stopped" in screen.read()


def test_the_panel_is_redrawn_at_most_four_times_a_second(
    terminal: Callable[[int], Terminal],
) -> None:
    screen = terminal(80)
    with Console(total_steps=1000, first_step=1, output=screen.console) as console:
        until = time.monotonic() + 1.0
        step = 0
        while time.monotonic() < until:
            step += 1
            console.phase("learn")
            console.step(step, METRICS)
            time.sleep(0.01)
    redraws = screen.read().count("╭")
    assert 2 <= redraws <= 4 + 2  # four a second, the first and the last


def test_a_supervised_step_is_one_plain_line() -> None:
    output, text = plain()
    with Console(total_steps=None, first_step=1, output=output) as console:
        console.step(1, SFT)
        console.expect(10)
        console.step(2, SFT | {"data/rejected": 3.0})
    first, second = text.getvalue().splitlines()
    shown = "loss 2.31  perplexity 10.1  accuracy 0.520  lr 2.0e-05  grad norm 1.5  tokens/s 845  "
    assert first == f"step 1  {shown}epoch 1.08  dropped rows 7  8.00 s  ETA ?"
    assert second.startswith(f"step 2/10  {shown}")
    assert second.endswith("rejected rows 3  dropped rows 7  8.00 s  ETA 1m 04s")


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({"nll": 1.9, "perplexity": 6.7, "accuracy": 0.5}, "perplexity 6.7  accuracy 0.500"),
        ({"accuracy": 0.75, "margin": 1.2, "pairs": 32.0}, "accuracy 0.750  margin 1.2"),
        (
            {"rewards/accuracy": 0.75, "rewards/margin": 1.2, "logps/chosen": -80.0},
            "reward accuracy 0.750  reward margin 1.2",
        ),
        ({"rewards/desirable": 0.5, "kl": 0.02}, "desirable reward 0.500  kl 0.02"),
    ],
)
def test_a_validation_is_one_line(metrics: dict[str, float], expected: str) -> None:
    output, text = plain()
    measured = {f"validation/{name}": value for name, value in ({"loss": 2.31} | metrics).items()}
    with Console(total_steps=10, first_step=1, output=output) as console:
        console.validation(8, measured)
    assert text.getvalue() == f"validation after step 8: loss 2.31  {expected}\n"


def test_the_panel_shows_a_supervised_step(terminal: Callable[[int], Terminal]) -> None:
    screen = terminal(110)
    with Console(total_steps=None, first_step=1, output=screen.console) as console:
        for step in (0, 4, 8):
            console.validation(step, {"validation/loss": 3.0 - step / 10})
        console.step(1, SFT | {"loss": 3.5})
        console.step(2, SFT)
    shown = screen.read()
    last = " ".join(shown[shown.rindex("╭") :].split())
    for expected in (
        "╭─ step 2 ",
        "ETA ?",
        "loss █▁",
        "validation after step 0: loss 3 ",
        "validation after step 8: loss 2.2 ",
        "loss 2.31 data 2.00 s 25%",
        "perplexity 10.1 learn 6.00 s 75%",
        "accuracy 0.520",
        "learning rate 2.0e-05",
        "grad norm 1.5",
        "tokens/s learn 845",
        "epoch 1.08",
        "rejected rows 0",
        "dropped rows 7",
    ):
        assert expected in last, expected
    assert "after step 4" not in last


def test_sparkline() -> None:
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert sparkline([2.0, 2.0]) == "▁▁"
