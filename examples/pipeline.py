"""Digits are fetched, decoded one at a time by SPDL, and trained on: the monitor names decode, a controller mends it.

python examples/pipeline.py
"""

import time
import zlib
from itertools import count
from pathlib import Path

import anyio
import anyio.to_thread
import torch
from sklearn.datasets import load_digits
from spdl.pipeline import PipelineBuilder

from asynchub import ConcurrencyChanged, HillClimbing, MessageHub, Pipeline
from asynchub.demo import Training

FILE, FILES_A_BATCH = 16, 2  # digits in a file
torch.set_num_threads(1)
digits = load_digits()
pixels, labels = (digits.images / 16).astype("float32"), torch.tensor(digits.target)
files = [(zlib.compress(pixels[i : i + FILE].tobytes()), labels[i : i + FILE]) for i in range(0, 1792, FILE)]

hub = MessageHub("digits")
training = Training(hub, Path("run"), seed=0)
mon = Pipeline(hub, interval=0.25, window=2.25, warmup=0.25)  # short, for a short run
mon.on_report(HillClimbing(mon))


@mon.stage("fetch", concurrency=2)
async def fetch(number):
    await anyio.sleep(0.002)  # stands for a network
    return files[number % len(files)]


def decoded(file):
    time.sleep(0.018)  # stands for a decoder that lets go of the interpreter
    return torch.frombuffer(bytearray(zlib.decompress(file[0])), dtype=torch.float32).view(-1, 1, 8, 8), file[1]


@mon.stage("decode", concurrency=1, limited=True)  # one at a time, until somebody wants more
async def decode(file):
    return await anyio.to_thread.run_sync(decoded, file)


def collate(parts):
    return [torch.cat(tensors) for tensors in zip(*parts, strict=True)]


pipeline = (
    PipelineBuilder()
    .add_source(count())
    .pipe(fetch, concurrency=2, name="fetch")
    .pipe(decode, concurrency=16, name="decode")
    .aggregate(FILES_A_BATCH)
    .pipe(collate, name="collate")
    .add_sink(4)
    .build(num_threads=2, **mon.spdl())
)


@hub.on(ConcurrencyChanged)
async def tell(event) -> None:
    print(f"{event.stage}: {event.old} -> {event.new} at once, {event.reason}")


def main() -> None:
    before = after = mon.report()
    end = time.monotonic() + 10
    with hub, mon, pipeline.auto_stop():
        for images, targets in mon.consume(pipeline):
            training.step(images, targets)
            time.sleep(0.01)  # stands for a larger network, on an accelerator
            after = mon.report()
            if before.verdict.kind == "unknown" != after.verdict.kind:
                before = after
                print(before, "\n", flush=True)
            elif after.verdict.kind == "consumer" or time.monotonic() > end:
                break  # training is what limits it now
    waited = [f"{report.consumer.wait_fraction:.0%} of the time" for report in (before, after)]
    print(f"\n{after}\n\nwaiting for data:", ", then ".join(waited))


main()
