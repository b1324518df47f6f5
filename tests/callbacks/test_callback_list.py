import logging

import pytest

from align.callbacks import Callback, CallbackList, Guest, default_callbacks
from align.config import TrackingConfig
from align.config.callbacks import (
    CallbacksConfig,
    EarlyStoppingConfig,
    ProgressConfig,
    RetentionConfig,
    TensorboardConfig,
)
from align.errors import InputError
from tests import tiny


class Recorder(Callback):
    def __init__(self, log=None, name="r", every=1):
        self.log, self.name, self.every = [] if log is None else log, name, every

    def on_step(self, record):
        self.log.append((self.name, record["step"]))

    def on_failure(self, error):
        self.log.append((self.name, str(error)))


class Broken(Callback):
    def on_step(self, record):
        record["step"] = -1
        raise ValueError("no such\ncolumn")

    def on_failure(self, error):
        raise OSError("disk full")


def test_every_hook_is_dispatched():
    hooks = {name for name in vars(Callback) if name.startswith("on_")}
    assert hooks == {n for n in vars(CallbackList) if n.startswith("on_")}
    assert hooks == {n for n in vars(Guest) if n.startswith("on_")}
    called = []

    class All(Callback):
        def __getattribute__(self, name):
            if name.startswith("on_"):
                called.append(name)
            return super().__getattribute__(name)

    both = CallbackList([All(), Guest("guest", All())])
    for name in hooks:
        getattr(both, name)(*[None] * (getattr(Callback, name).__code__.co_argcount - 1))
    assert sorted(called) == sorted([*hooks, *hooks])


def test_order_and_failure():
    log = []
    both = CallbackList([Recorder(log, "a"), Guest("x", Broken()), Recorder(log, "b")])
    error = ValueError("bad")
    both.on_failure(error)
    assert log == [("a", "bad"), ("b", "bad")]
    direct = CallbackList([Broken(), Recorder(log, "b")])
    direct.on_failure(error)
    assert error.__notes__ == ["Broken failed too: disk full"]
    with pytest.raises(ValueError, match="no such"):  # our own files must not fail unnoticed
        direct.on_step({"step": 3})


def test_a_guest_that_fails_is_named_once_and_touches_nothing(caplog):
    log = []
    guests = CallbackList([Guest("callbacks.own.mine", Broken()), Recorder(log, "b")])
    with caplog.at_level(logging.WARNING):
        for step in (1, 2):
            guests.on_step({"step": step})
    assert log == [("b", 1), ("b", 2)]
    assert [r.message for r in caplog.records] == [
        "callbacks.own.mine failed in on_step (ValueError: no such); the run goes on without it"
    ]
    assert guests.failures == ["callbacks.own.mine failed in on_step (ValueError: no such)"]


def test_a_listener_may_ask_for_the_end_and_keep_a_checkpoint():
    class Asks(Callback):
        def on_step(self, record):
            self.stop = "enough"

        def keeps(self, step):
            return step == 7

    callbacks = CallbackList([Callback(), Guest("mine", Asks())])
    assert callbacks.asked_to_stop is None
    callbacks.on_step({})
    assert callbacks.asked_to_stop == "enough"
    assert (callbacks.keeps(6), callbacks.keeps(7)) == (False, True)


def kinds(tracking=None, **settings):
    config = tiny.config(**settings)
    config.tracking = tracking or config.tracking
    callbacks = default_callbacks(config).callbacks
    return [c.name if isinstance(c, Guest) else type(c).__name__.removesuffix("Callback") for c in callbacks]


def test_default_callbacks():
    assert kinds() == ["Jsonl", "Progress"]
    assert kinds(tracking=TrackingConfig(name="wandb")) == ["Jsonl", "Progress", "Wandb"]
    chosen = CallbacksConfig(
        progress=ProgressConfig(enabled=False),
        tensorboard=TensorboardConfig(enabled=True),
        early_stopping=EarlyStoppingConfig(kl_above=3.0),
        retention=RetentionConfig(every=10, best=None),
        own={"mine": {"_target_": f"{__name__}.Recorder", "every": 3}},
    )
    assert kinds(callbacks=chosen) == ["Jsonl", "EarlyStopping", "Retention", "callbacks.own.mine", "tensorboard"]


@pytest.mark.parametrize(
    ("own", "line"),
    [
        ({"_target_": "no.such.Thing"}, r"callbacks\.own\.mine\._target_: given 'no.such.Thing'.*No module named 'no'"),
        ({"_target_": "math.pi"}, r"callbacks\.own\.mine\._target_: .*extends align\.callbacks\.Callback"),
        ({"_target_": f"{__name__}.Nothing"}, r"_target_: .*has no attribute 'Nothing'"),
        (
            {"_target_": f"{__name__}.Recorder", "evry": 3},
            r"callbacks\.own\.mine: .*unexpected keyword .*evry",
        ),
    ],
)
def test_an_own_callback_that_cannot_be_made_is_one_line(own, line):
    with pytest.raises(InputError, match=line) as caught:
        kinds(callbacks=CallbacksConfig(own={"mine": own}))
    assert "\n" not in str(caught.value)
