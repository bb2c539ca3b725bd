"""An async data pipeline watched by its own hub: a consumer that is told when the queue runs dry.

python examples/async_pipeline.py
"""

import anyio

from asynchub import MessageHub


async def main() -> None:
    hub = MessageHub("pipeline")
    send, receive = anyio.create_memory_object_stream[int](8)

    @hub.on("queue/depth", when=lambda event: event.value == 0)
    async def dry(event) -> None:
        hub.update_scalar("queue/dry", 1)

    async def fetch() -> None:
        async with send:
            for number in range(100):
                if number % 25 == 0:
                    await anyio.sleep(0.01)  # a slow source, now and then
                await send.send(number)

    async with hub, anyio.create_task_group() as tasks, receive:
        tasks.start_soon(fetch)
        async for number in receive:
            hub.step = number
            hub.update_scalar("queue/depth", receive.statistics().current_buffer_used)
            await anyio.sleep(0)
        await hub.flushed()

    depth = hub.get_scalar("queue/depth")
    print(f"{len(depth.data[0])} items, {depth.mean():.1f} waiting on average")
    print(f"ran dry {len(hub.get_scalar('queue/dry').data[0])} times")


anyio.run(main)
