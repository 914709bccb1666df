"""How far an evaluation says that it is."""

import contextlib

from pairlens._progress import ProgressLine, duration
from pairlens.evaluation.runner import run_protocol
from tests.client.evaluation.fakes import FakeProtocol


class Stream:
    def __init__(self, terminal):
        self.text, self.terminal = "", terminal

    def isatty(self):
        return self.terminal

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_progress_says_rate_time_left_and_failures():
    now = 100.0
    line = ProgressLine("images", 100, 20, Stream(False), clock=lambda: now)
    assert line.text(now) == "images: 20 of 100 (20 from before)"
    line.done, line.failed = 16, 2
    now = 108.0
    assert line.text(now) == (
        "images: 36 of 100 (20 from before), 2 per second, 32 s left, 2 failed"
    )
    line.drop(14)
    assert "36 of 86" in line.text(now)
    assert "25 s left" in line.text(now)


def test_progress_redraws_one_line_on_a_terminal_and_is_sparse_elsewhere():
    now = 0.0
    streams = Stream(True), Stream(False)
    lines = [ProgressLine("images", 10, 0, stream, clock=lambda: now) for stream in streams]
    for step in range(250):
        now = step / 10
        for line in lines:
            line.show()
    for line in lines:
        line.show(last=True)
    terminal, plain = (stream.text for stream in streams)
    assert terminal.count("\n") == 1
    assert 100 <= terminal.count("\r") <= 130
    assert plain.count("\n") == 3  # at 10 s, at 20 s, at the end
    assert "\r" not in plain


def test_durations():
    assert [duration(seconds) for seconds in (0.4, 59.4, 200, 18720)] == [
        "0 s",
        "59 s",
        "3 min 20 s",
        "5 h 12 min",
    ]


def test_progress_goes_to_standard_error(tmp_path, capsys):
    with contextlib.suppress(KeyboardInterrupt):
        run_protocol(FakeProtocol(2), tmp_path)
    out, err = capsys.readouterr()
    assert out == ""
    assert "images x methods: 4 of 4" in err
