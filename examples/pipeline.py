"""Digits are fetched, decoded in one thread, and trained on: the monitor finds the bottleneck, a controller mends it.

python examples/pipeline.py
"""

import time
import zlib
from pathlib import Path

import anyio
import anyio.to_thread
import torch
from sklearn.datasets import load_digits

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
decoding = mon.stage("decode", concurrency=1, limited=True)


@mon.stage("fetch", concurrency=2)
async def fetch(number):
    await anyio.sleep(0.002)  # stands for a network
    return files[number % len(files)]


@decoding
def decode(file):
    time.sleep(0.018)  # stands for a decoder that lets go of the interpreter
    return torch.frombuffer(bytearray(zlib.decompress(file[0])), dtype=torch.float32).view(-1, 1, 8, 8), file[1]


def step(images, labels):
    training.step(images, labels)
    time.sleep(0.01)  # stands for a larger network, on an accelerator


async def main() -> None:
    numbers = iter(range(10**9))
    (send_file, fetched), (send_decoded, decoded) = mon.channel("fetched", 16), mon.channel("decoded", 16)

    async def fetcher() -> None:
        for number in numbers:
            await send_file.send(await fetch(number))

    async def decoder() -> None:
        async for file in fetched:
            await send_decoded.send(await anyio.to_thread.run_sync(decode, file, limiter=decoding.limiter))

    async def batches():
        while True:
            parts = [await decoded.receive() for _ in range(FILES_A_BATCH)]
            yield [torch.cat(tensors) for tensors in zip(*parts, strict=True)]

    @hub.on(ConcurrencyChanged)
    async def tell(event) -> None:
        print(f"{event.stage}: {event.old} -> {event.new} at once, {event.reason}")

    before = after = None
    async with hub, mon, anyio.create_task_group() as tasks, send_file, fetched, send_decoded, decoded:
        for task in (fetcher, fetcher, *[decoder] * 16):
            tasks.start_soon(task)
        with anyio.move_on_after(10):
            async for images, labels in mon.consume(batches()):
                await anyio.to_thread.run_sync(step, images, labels)
                after = mon.report()
                if before is None and after.verdict.kind != "unknown":
                    before = after
                    print(before, "\n", flush=True)
                elif after.verdict.kind == "consumer":  # training is what limits it now
                    break
        tasks.cancel_scope.cancel()
    waited = [f"{report.consumer.wait_fraction:.0%} of the time" for report in (before or after, after)]
    print(f"\n{after}\n\nwaiting for data:", ", then ".join(waited))


anyio.run(main)
