"""Train in one place, watch and steer from another: ``python examples/remote.py [nats://user:password@host]``.

Both places are in this process here, and so is the broker unless you name one, so that it runs anywhere. On two
machines, ``train`` is the one program and ``watch`` the other.
"""

from __future__ import annotations

import sys
import threading
import time

import anyio
import torch

import asynchub
from asynchub import Bridge, MessageHub, ParameterChangeRequested, StopRequested

BROKER = sys.argv[1] if len(sys.argv) > 1 else "memory://example"


def train() -> None:
    hub = MessageHub("line")
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.001)
    Bridge(hub, BROKER, run="line-1", spool="spool", allow=("stop", "set/lr"), interval=0.1)
    hub.on_request(ParameterChangeRequested, lambda request: optimizer.param_groups[0].update(lr=request.value))
    with hub:
        for hub.step in range(1, 100_001):
            loss = ((weight - 3.0) ** 2).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            hub.update_scalar("train/loss", loss)
            hub.settle()  # requests take effect here
            if hub.stop_requested:
                break
            time.sleep(0.001)  # stands for a larger model
    print(f"trained to {weight.item():.2f}, stopped: {hub.stop_reason}")


async def watch() -> None:
    async with asynchub.attach(BROKER, run="line-1", author="somebody far away") as run:
        first = await run.wait_for("train/loss", timeout=30)
        print(f"the loss is {first.value:.1f}: too slow")
        outcome = await run.requested(ParameterChangeRequested(name="lr", value=0.1, reason="too slow"))
        print(f"{outcome.request}: {type(outcome).__name__}")
        await run.wait_for("train/loss", lambda event: event.value < 0.01, timeout=30)
        outcome = await run.requested(StopRequested(reason="good enough"))
        print(f"{outcome.request}: {type(outcome).__name__}, by {outcome.author}")


training = threading.Thread(target=train)
training.start()
anyio.run(watch)
training.join()
