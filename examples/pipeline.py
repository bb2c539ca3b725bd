"""An input pipeline whose bottleneck is found, and mended while it runs: who limits training, before and after.

Digits are fetched, decoded in threads, batched, and trained on. Decoding has one thread to begin with.

python examples/pipeline.py
"""

import time
import zlib
from pathlib import Path

import anyio
import anyio.to_thread
import torch
from sklearn.datasets import load_digits

from asynchub import ConcurrencyChanged, MessageHub
from asynchub.demo import Training
from asynchub.pipeline.controller import HillClimbing
from asynchub.pipeline.monitor import Pipeline

FILE, FILES_A_BATCH = 96, 2  # digits in a file
torch.set_num_threads(1)
digits = load_digits()
pixels = digits.images.astype("float32") / 16
files = [
    (zlib.compress(pixels[start : start + FILE].tobytes()), torch.tensor(digits.target[start : start + FILE]))
    for start in range(0, len(pixels) - FILE, FILE)
]

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
    time.sleep(0.014)  # stands for a decoder that lets go of the interpreter
    packed, labels = file
    return torch.frombuffer(bytearray(zlib.decompress(packed)), dtype=torch.float32).view(-1, 1, 8, 8), labels


async def main() -> None:
    numbers = iter(range(10**9))
    send_files, fetched = mon.channel("fetched", 16)
    send_decoded, decoded = mon.channel("decoded", 16)

    async def fetcher() -> None:
        for number in numbers:
            await send_files.send(await fetch(number))

    async def decoder() -> None:
        async for file in fetched:
            await send_decoded.send(await anyio.to_thread.run_sync(decode, file, limiter=decoding.limiter))

    async def batches():
        while True:
            parts = [await decoded.receive() for _ in range(FILES_A_BATCH)]
            yield torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])

    @hub.on(ConcurrencyChanged)
    async def tell(event) -> None:
        print(f"{event.stage}: {event.old} -> {event.new} at once, {event.reason}")

    before = after = None
    async with hub, mon, anyio.create_task_group() as tasks, send_files, fetched, send_decoded, decoded:
        for task in (fetcher, fetcher, *[decoder] * 16):
            tasks.start_soon(task)
        with anyio.move_on_after(10):
            async for images, labels in mon.consume(batches()):
                await anyio.to_thread.run_sync(training.step, images, labels)
                after = mon.report()
                if before is None and after.verdict.kind == "stage":
                    before = after
                    print(before, "\n", flush=True)
                elif before is not None and after.consumer.wait_fraction < 0.05:
                    break
        tasks.cancel_scope.cancel()
    print(f"\n{after}\n")
    print(f"waiting for data: {before.consumer.wait_fraction:.0%} of the time, then {after.consumer.wait_fraction:.0%}")


anyio.run(main)
