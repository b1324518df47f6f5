import pytest

from align.callbacks import Callback, CallbackList, default_callbacks
from align.config import TrackingConfig


class Recorder(Callback):
    def __init__(self, log, name):
        self.log, self.name = log, name

    def on_step(self, record):
        self.log.append((self.name, record["step"]))

    def on_failure(self, error):
        self.log.append((self.name, str(error)))


class Broken(Callback):
    def on_failure(self, error):
        raise OSError("disk full")


def test_every_hook_is_dispatched():
    hooks = {name for name in vars(Callback) if name.startswith("on_")}
    assert hooks == {n for n in vars(CallbackList) if n.startswith("on_")}
    called = []

    class All(Callback):
        def __getattribute__(self, name):
            if name.startswith("on_"):
                called.append(name)
            return super().__getattribute__(name)

    both = CallbackList([All(), All()])
    for name in hooks:
        getattr(both, name)(*[None] * (getattr(Callback, name).__code__.co_argcount - 1))
    assert sorted(called) == sorted([*hooks, *hooks])


def test_order_and_failure():
    log = []
    both = CallbackList([Recorder(log, "a"), Broken(), Recorder(log, "b")])
    both.on_step({"step": 3})
    error = ValueError("bad")
    both.on_failure(error)
    assert log == [("a", 3), ("b", 3), ("a", "bad"), ("b", "bad")]
    assert error.__notes__ == ["Broken failed too: disk full"]


@pytest.mark.parametrize(("name", "expected"), [("none", 2), ("wandb", 3)])
def test_default_callbacks(name, expected):
    kinds = [type(c).__name__ for c in default_callbacks(TrackingConfig(name=name)).callbacks]
    assert kinds == ["JsonlCallback", "ProgressCallback", "WandbCallback"][:expected]
