"""In a compiled step every value is recorded, in order, and nothing is compiled again for it."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import asynchub
from asynchub import MessageHub
from asynchub.compiling import RULES, leave_out_of_graphs
from asynchub.devices.compiled import graph_probe
from asynchub.errors import ArgumentError, CountTypeError, KeyTypeError

ROOT = Path(asynchub.__file__).parent.parent


def run(script: str) -> list[str]:
    """Run a program of its own, in which a warning of ours is an error; return the lines that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "asynchub" not in done.stderr
    return done.stdout.splitlines()


PLAIN = """
import torch
{before}
from asynchub import MessageHub
hub = MessageHub("hub")
probe = hub.probe("probe")
def step(x, number):
    loss = (torch.tanh(x) * x).square().mean()
    hub.step = number
    hub.update_scalar("loss", loss)
    hub.update_scalars({{"double": loss * 2, "one": 1.0}})
    probe(loss)
    hub.update_info("info", "x")
    return loss * 3
xs = [torch.randn(8) for _ in range(100)]
for backend in ("eager", "aot_eager", "inductor"):
    torch._dynamo.reset()
    compiled = torch.compile(step, backend=backend, dynamic=False)
    counters = torch._dynamo.utils.counters
    counters.clear()
    with torch.no_grad():
        for number, x in enumerate(xs):
            compiled(x, min(number, 1))
            if number == 5:
                warm = counters["stats"]["unique_graphs"]
    print(backend, counters["stats"]["unique_graphs"] - warm, len(hub.get_scalar("loss").data[0]))
wanted = [(torch.tanh(x) * x).square().mean().item() for x in xs]
values = hub.get_scalar("loss").data[0]
print(values[:200].tolist() == wanted * 2, abs(values[200:] - wanted).max() < 1e-6)
print((hub.get_scalar("probe").data[0] == values).all(), (hub.get_scalar("double").data[0] == values * 2).all())
"""


@pytest.mark.parametrize(
    "before",
    [
        pytest.param("", id="first the hub"),
        pytest.param("import torch._dynamo", id="first the compiler", marks=pytest.mark.slow),
    ],
)
def test_a_compiled_step_records_every_value_and_is_not_compiled_again(before: str) -> None:
    lines = run(PLAIN.format(before=before))
    assert lines == ["eager 0 100", "aot_eager 0 200", "inductor 0 300", "True True", "True True"]


WHOLE = """
import torch
from asynchub import MessageHub
from asynchub.devices.compiled import graph_probe
hub = MessageHub("hub")
loss_probe, double_probe = graph_probe(hub, "loss"), graph_probe(hub, "double", 3)
weight = torch.ones(8, requires_grad=True)
def step(x):
    loss = (torch.tanh(x) * weight).square().mean()
    loss_probe(loss)
    double_probe(loss.detach() * 2)
    return loss * 3
xs = [torch.randn(8) for _ in range(100)]
for backend in ("eager", "aot_eager", "inductor"):
    torch._dynamo.reset()
    compiled = torch.compile(step, backend=backend, fullgraph=True)
    counters = torch._dynamo.utils.counters
    counters.clear()
    for x in xs:
        compiled(x).backward()
    print(backend, counters["stats"]["unique_graphs"], len(hub.get_scalar("loss").data[0]))
wanted = [torch.tanh(x).square().mean().item() for x in xs]
values = hub.get_scalar("loss").data[0]
print(abs(values.reshape(3, -1) - wanted).max() < 1e-6, abs(hub.get_scalar("double").data[0] - values * 2).max() < 1e-6)
print(set(hub.get_scalar("double").data[1].tolist()))
seqs = [hub.get_scalar(key).records().seqs for key in ("loss", "double")]
print((seqs[1] - seqs[0] == 1).all())
"""


def test_one_whole_graph_keeps_every_value_in_order() -> None:
    lines = run(WHOLE)
    assert lines == ["eager 1 100", "aot_eager 1 200", "inductor 1 300", "True True", "{3}", "True"]


def test_a_probe_for_graphs_works_in_plain_code_and_lets_go_of_its_hub() -> None:
    hub = MessageHub("hub")
    probe = graph_probe(hub, "loss", 2)
    probe(torch.tensor(1.5))
    graph_probe(hub, "other")(torch.tensor([2.5]))
    assert hub.get_scalar("loss").data[1].tolist() == [2]
    assert hub.get_scalar("other").data[0].tolist() == [2.5]
    del hub
    gc.collect()
    probe(torch.tensor(3.5))  # nobody is there


def test_a_probe_for_graphs_checks_its_arguments() -> None:
    hub = MessageHub("hub")
    wrong: Any = object()
    with pytest.raises(ArgumentError, match="hub"):
        graph_probe(wrong, "loss")
    with pytest.raises(KeyTypeError):
        graph_probe(hub, wrong)
    with pytest.raises(CountTypeError):
        graph_probe(hub, "loss", wrong)


def test_the_compiler_is_told_once_and_a_version_that_does_not_listen_is_let_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Rules:
        def __init__(self, deaf: bool) -> None:
            self.told: list[str] = []
            self._deaf = deaf

        def add(self, name: str) -> None:
            if self._deaf:
                raise RuntimeError("another version")
            self.told.append(name)

    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if "asynchub" not in repr(finder)])
    rules = Rules(deaf=False)
    monkeypatch.setitem(sys.modules, RULES, rules)  # type: ignore[arg-type]  # enough of a module
    leave_out_of_graphs()
    leave_out_of_graphs()
    assert rules.told == ["asynchub"]
    monkeypatch.setitem(sys.modules, RULES, Rules(deaf=True))  # type: ignore[arg-type]
    leave_out_of_graphs()
