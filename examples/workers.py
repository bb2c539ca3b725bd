"""Workers of a DataLoader publish what decoding took them; the training process has it all in one hub.

python examples/workers.py
"""

import random
import time
import zlib

import torch
from torch.utils.data import DataLoader, Dataset

from asynchub import Children, MessageHub


class Files(Dataset):
    """Compressed vectors, decoded when they are asked for."""

    def __init__(self, size: int) -> None:
        draw = random.Random(0)
        self.files = [zlib.compress(draw.randbytes(4096)) for _ in range(size)]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        start = time.perf_counter()
        data = zlib.decompress(self.files[index])
        time.sleep(0.001 if index % 16 else 0.01)  # stands for a disk; some files are on a slow one
        MessageHub.get_current_instance().update_scalar("data/decode_ms", 1000 * (time.perf_counter() - start))
        return torch.frombuffer(bytearray(data), dtype=torch.uint8).float() / 255


def main() -> None:
    hub = MessageHub.get_instance("files")

    @hub.on("data/decode_ms", when=lambda event: event.value > 9)
    def slow(event) -> None:
        seen.append(event.value)

    seen: list[float] = []
    weights = torch.zeros(4096)
    with hub, Children(hub) as children:
        loader = DataLoader(Files(256), batch_size=16, num_workers=2, worker_init_fn=children.worker_init)
        for hub.step, batch in enumerate(loader):
            weights += 0.1 * (batch.mean(0) - weights)
            hub.update_scalar("train/distance", (batch.mean(0) - weights).norm())
        children.flush()  # all that the workers have sent is in the hub now
        workers = children.statistics().children
        hub.flush()
    for worker in sorted(workers, key=lambda one: one.worker):
        print(f"worker {worker.worker}, process {worker.pid}: {worker.events} files")
    decode = hub.get_scalar("data/decode_ms").snapshot().values
    print(f"decoding: {decode.mean():.1f} ms a file, {len(seen)} of {len(decode)} took more than 9 ms")


if __name__ == "__main__":
    main()
