"""A run that is broken off and resumed: the same curve, the same decision, the same log as if it had not been.

python examples/resume.py
"""

from pathlib import Path

from asynchub import EarlyStopping, JsonlLogger, MessageHub

VALUES = [1.0, 0.7, 0.5, 0.6, 0.55, 0.52, 0.51, 0.53]


def run(folder: str, steps: range, *, resume: bool) -> MessageHub:
    hub = MessageHub("run")
    if resume:
        hub.load(f"{folder}/hub.state")
    hub.attach(EarlyStopping("val/loss", patience=4))
    hub.attach(JsonlLogger(f"{folder}/metrics.jsonl"), "val/*")
    with hub:
        for hub.step in steps:
            hub.update_scalar("val/loss", VALUES[hub.step])
            hub.settle()
            hub.save(f"{folder}/hub.state")
            if hub.stop_requested:
                break
    return hub


whole = run("whole", range(len(VALUES)), resume=False)

run("broken", range(4), resume=False)  # ends after step 3
with Path("broken/metrics.jsonl").open("a") as log:
    log.write("something that the dying process wrote after its last save\n")
resumed = run("broken", range(4, len(VALUES)), resume=True)

print("stopped at step", whole.step, "and", resumed.step)
print("same history:", whole.get_scalar("val/loss").data[0].tolist() == resumed.get_scalar("val/loss").data[0].tolist())
print(
    "lines in the log:", *(len(Path(f"{name}/metrics.jsonl").read_text().splitlines()) for name in ("whole", "broken"))
)
