"""A first signal is remembered, a second one interrupts, and what was before comes back."""

import os
import signal

import pytest

from utils.signals import Stopped, StopRequest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_waits_and_the_second_does_not(number, capfd):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        stop.check()
        os.kill(os.getpid(), number)
        assert "once more stops at once" in capfd.readouterr().err
        with pytest.raises(Stopped) as stopped:
            stop.check()
        assert stopped.value.code == 128 + number
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_a_signal_is_passed_on(capfd):
    came = []
    with StopRequest("finishing this image", lambda: came.append(1)) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert came == [1] and stop.code == 130 and "finishing this image; once more" in capfd.readouterr().err


def test_items_end_where_a_signal_has_come():
    with StopRequest() as stop:
        seen, watched = [], stop.between([1, 2, 3])
        assert len(watched) == 3
        with pytest.raises(Stopped):
            for item in watched:
                seen.append(item)
                stop.number = signal.SIGTERM
    assert seen == [1]
