"""An environment for the Weights & Biases client in which nobody's settings or credentials are found."""

import pytest

from tests.callbacks.wandb_server import Server

NAMES = "API_KEY MODE DISABLED RUN_ID BASE_URL DIR PROJECT ENTITY TAGS RUN_GROUP".split()


@pytest.fixture
def wandb_environment(monkeypatch, tmp_path):
    """The client reads the environment once per process: it is shut down before and after."""
    wandb = pytest.importorskip("wandb")
    wandb.teardown()
    for name in NAMES:
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    yield
    wandb.teardown()


@pytest.fixture
def server(monkeypatch, wandb_environment):
    """A server on this machine that the client takes for its own."""
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    started = Server()
    monkeypatch.setenv("WANDB_BASE_URL", started.url)
    yield started
    started.close()
