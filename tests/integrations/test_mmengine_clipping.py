"""Clipping gradients in mmengine without reading their norm: the same run, and who still reads tensors in it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import mmengine.optim.optimizer.amp_optimizer_wrapper
import pytest
import torch
import torch.distributed
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import MessageHub as TheirHub
from mmengine.logging import MMLogger
from mmengine.model import BaseModel, ExponentialMovingAverage
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import Runner
from sklearn.datasets import load_digits
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import TensorDataset

from asynchub.hub import MessageHub
from asynchub.integrations.mmengine import THEIR_CLIP_GRAD, HubHook, install

ITERATIONS = 8
CLIPPINGS = [
    {"max_norm": 0.5},
    {"max_norm": 100},
    {"max_norm": 0.1, "norm_type": "inf"},
    {"max_norm": 0.5, "norm_type": 1, "error_if_nonfinite": True},
    {"type": "norm", "max_norm": 0.5, "foreach": False},
    {"type": "value", "clip_value": 0.01},
]


class Reads(TorchDispatchMode):  # type: ignore[misc]  # torch gives it no types
    """Counts who reads a tensor as a number, which is what waits when the tensor is on a device.

    Attributes:
        by: how often, by the innermost function of mmengine; ``"asynchub"`` stands for all of asynchub.
    """

    def __init__(self) -> None:
        super().__init__()
        self.by: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            self.by[self._reader()] += 1
        return function(*args, **(kwargs or {}))

    def _reader(self) -> str:
        frame = sys._getframe(1)
        while frame.f_back is not None:
            frame = frame.f_back
            match frame.f_globals.get("__name__", "").split("."):
                case ["asynchub", *_]:
                    return "asynchub"
                case ["mmengine", *_]:
                    return frame.f_code.co_qualname
        return "another"


class Classifier(BaseModel):  # type: ignore[misc]
    """Two layers, and one that gets no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
        self.unused = nn.Linear(1, 1)

    def forward(self, images: torch.Tensor, labels: torch.Tensor, mode: str = "tensor") -> dict[str, torch.Tensor]:
        scores = self.layers(images)
        right = (scores.argmax(1) == labels).float().sum()
        return {"loss": nn.functional.cross_entropy(scores, labels), "right": right}


class Gradients(Hook):  # type: ignore[misc]
    """Keeps the gradients that each update of the weights is made with."""

    def __init__(self) -> None:
        self.seen: list[list[Any]] = []

    def before_train(self, runner: Runner) -> None:
        def keep(optimizer: Any, *_: Any) -> None:
            parameters = [one for group in optimizer.param_groups for one in group["params"]]
            self.seen.append([None if one.grad is None else one.grad.tolist() for one in parameters])

        runner.optim_wrapper.optimizer.register_step_pre_hook(keep)


def runner(folder: Path, *hooks: Hook, **wrapper: Any) -> Runner:
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    digits = TensorDataset(torch.tensor(images[::9] / 16, dtype=torch.float32), torch.tensor(labels[::9]))
    return Runner(
        model=Classifier(),
        work_dir=str(folder),
        train_dataloader={
            "dataset": digits,
            "sampler": {"type": "InfiniteSampler"},
            "collate_fn": {"type": "default_collate"},
            "batch_size": 50,
            "num_workers": 0,
        },
        train_cfg={"by_epoch": False, "max_iters": ITERATIONS},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.5, "momentum": 0.9}, **wrapper},
        default_hooks={"logger": {"type": "LoggerHook", "interval": 4}},
        custom_hooks=list(hooks),
        log_processor={"by_epoch": False},
        experiment_name=f"digits-{uuid4().hex}",
        log_level="ERROR",
        randomness={"seed": 3},
    )


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    for logger in list(MMLogger._instance_dict.values()):
        for handler in logger.handlers:
            handler.close()
    assert OptimWrapper._clip_grad is THEIR_CLIP_GRAD


def trained(folder: Path, **wrapper: Any) -> dict[str, Any]:
    """Run and return what is to be the same: histories with their dtypes, gradients, weights."""
    gradients = Gradients()
    run = runner(folder, gradients, **wrapper)
    run.train()
    histories = {
        key: [(part.dtype.str, part.tolist()) for part in history.data]
        for key, history in run.message_hub.log_scalars.items()
        if "time" not in key
    }
    weights = [parameter.tolist() for parameter in run.model.parameters()]
    return {"histories": histories, "gradients": gradients.seen, "weights": weights}


# --- the same run


@pytest.mark.parametrize("counts", [1, 3])
@pytest.mark.parametrize("clipping", CLIPPINGS, ids=str)
def test_a_run_that_clips_without_reading_is_the_same(tmp_path: Path, clipping: dict[str, Any], counts: int) -> None:
    theirs = trained(tmp_path / "theirs", clip_grad=dict(clipping), accumulative_counts=counts)
    with install(norm_as_tensor=True):
        ours = trained(tmp_path / "ours", clip_grad=dict(clipping), accumulative_counts=counts)
    assert len(ours["gradients"]) == -(-ITERATIONS // counts)
    assert ("train/grad_norm" in ours["histories"]) is (clipping.get("type") != "value")
    assert ours == theirs


class Published:
    """In the place of a hub: keeps what it is given."""

    def __init__(self) -> None:
        self.all: list[tuple[str, Any]] = []

    def update_scalar(self, key: str, value: Any) -> None:
        self.all.append((key, value))


def clipping(
    parameters: list[nn.Parameter], clip_func: Any = None, kind: type[OptimWrapper] = OptimWrapper, **clip_grad: Any
) -> OptimWrapper:
    wrapper = kind(torch.optim.SGD(parameters, lr=1.0), clip_grad=clip_grad or {"max_norm": 1.0})
    if clip_func is not None:
        wrapper.clip_func = clip_func
    return wrapper


def parameter(*gradient: float) -> nn.Parameter:
    made = nn.Parameter(torch.zeros(len(gradient)))
    made.grad = torch.tensor(gradient)
    return made


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("strict", [False, True])
def test_what_is_not_finite_is_treated_as_torch_is_told_to(value: float, strict: bool) -> None:
    with install(norm_as_tensor=True):
        wrapper = clipping([parameter(value)], max_norm=1.0, error_if_nonfinite=strict)
        if strict:
            with pytest.raises(RuntimeError, match="non-finite"):
                wrapper.step()
            assert "train/grad_norm" not in wrapper.message_hub.log_scalars
        else:
            wrapper.step()
            assert repr(wrapper.message_hub.get_scalar("train/grad_norm").data[0].tolist()) == f"[{value}]"


def test_without_gradients_nothing_is_published() -> None:
    frozen = parameter(1.0).requires_grad_(False)
    with install(norm_as_tensor=True):
        wrapper = clipping([frozen, nn.Parameter(torch.zeros(1))])
        wrapper.step()
        assert dict(wrapper.message_hub.log_scalars) == {}


def test_a_norm_that_is_a_plain_number_is_published_as_mmengine_does() -> None:
    wrapper = clipping([parameter(1.0)], lambda parameters, max_norm: 3)
    wrapper.message_hub = published = Published()
    wrapper.step()
    with install(norm_as_tensor=True):
        wrapper.step()
    assert [(key, type(value), value) for key, value in published.all] == [("train/grad_norm", float, 3.0)] * 2


def test_the_norm_of_sharded_gradients_is_reduced_before_it_is_published() -> None:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        norm = DTensor.from_local(torch.tensor(5.0), init_device_mesh("cpu", (1,)), [Replicate()])
        with install(norm_as_tensor=True):
            wrapper = clipping([parameter(3.0, 4.0)], lambda parameters, max_norm: norm)
            wrapper.message_hub = published = Published()
            wrapper.step()
    finally:
        torch.distributed.destroy_process_group()
    assert [(type(value), float(value)) for _, value in published.all] == [(torch.Tensor, 5.0)]


# --- mixed precision


def scaled(as_tensor: bool, monkeypatch: pytest.MonkeyPatch, **optimizer: Any) -> tuple[Counter[str], list[Any]]:
    """Return who read tensors in four updates of an ``AmpOptimWrapper``, and what came of them; the third overflows."""
    monkeypatch.setattr(mmengine.optim.optimizer.amp_optimizer_wrapper, "is_cuda_available", lambda: True)
    weight = nn.Parameter(torch.ones(2))
    with install(norm_as_tensor=as_tensor), Reads() as reads:
        wrapper = AmpOptimWrapper(
            loss_scale={"enabled": False},
            optimizer=torch.optim.SGD([weight], lr=0.1, **optimizer),
            clip_grad={"max_norm": 0.5},
        )
        wrapper.message_hub = MessageHub("scaled")
        wrapper.loss_scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        for factor in (1.0, 3.0, float("inf"), 2.0):
            wrapper.update_params((weight * factor).sum())
        counted = Counter(reads.by)
        norms = wrapper.message_hub.get_scalar("train/grad_norm").data[0].tolist()
    return counted, [norms, weight.tolist(), wrapper.loss_scaler.get_scale()]


@pytest.mark.filterwarnings("ignore:`torch.cuda.amp.GradScaler:FutureWarning")
def test_mixed_precision_clips_the_same_and_its_scaler_reads_once_per_update(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, their_result = scaled(False, monkeypatch)
    ours, our_result = scaled(True, monkeypatch)
    assert repr(our_result) == repr(their_result)  # as text, for nan is among them
    assert theirs == {"OptimWrapper._clip_grad": 4, "AmpOptimWrapper.step": 4}
    assert ours == {"asynchub": 4, "AmpOptimWrapper.step": 4}


@pytest.mark.filterwarnings("ignore:`torch.cuda.amp.GradScaler:FutureWarning")
def test_with_a_fused_optimizer_the_scaler_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    reads, _ = scaled(True, monkeypatch, fused=True)
    assert reads == {"asynchub": 4}


# --- who reads


def read_by(folder: Path, *hooks: Hook) -> Counter[str]:
    run = runner(folder, *hooks, clip_grad={"max_norm": 0.5})
    assert run.train_loop.iter == 0  # builds the loop, whose data loader draws a seed and reads that
    with Reads() as reads:
        run.train()
    return reads.by


def test_mmengine_reads_the_norm_at_each_iteration_and_we_do_not(tmp_path: Path) -> None:
    theirs = read_by(tmp_path / "theirs")
    with install():
        hub_only = read_by(tmp_path / "hub", HubHook())
    with install(norm_as_tensor=True):
        ours = read_by(tmp_path / "ours", HubHook())
    loss_and_right = 2 * ITERATIONS
    assert theirs == {"OptimWrapper._clip_grad": ITERATIONS, "MessageHub._get_valid_value": loss_and_right}
    assert hub_only == {"OptimWrapper._clip_grad": ITERATIONS, "asynchub": loss_and_right}
    assert ours == {"asynchub": loss_and_right + ITERATIONS}  # the hub itself reads what is on the CPU


def test_nothing_is_read_when_the_hub_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    update, kept = MessageHub.update_scalar, Counter[str]()

    def keep(hub: MessageHub, key: str, value: Any, *args: Any, **kwargs: Any) -> None:
        kept[key] += isinstance(value, torch.Tensor)
        update(hub, key, 0.0 if isinstance(value, torch.Tensor) else value, *args, **kwargs)

    monkeypatch.setattr(MessageHub, "update_scalar", keep)
    with install(norm_as_tensor=True):
        assert read_by(tmp_path, HubHook()) == {}
    assert +kept == {"train/loss": ITERATIONS, "train/right": ITERATIONS, "train/grad_norm": ITERATIONS}


def test_an_average_of_the_weights_reads_a_count_that_is_on_the_cpu(tmp_path: Path) -> None:
    with install(norm_as_tensor=True):
        reads = read_by(tmp_path, EMAHook(), HubHook())
    assert reads - Counter(asynchub=3 * ITERATIONS) == {"BaseAveragedModel.update_parameters": 2 * ITERATIONS - 1}
    assert ExponentialMovingAverage(nn.Linear(1, 1, device="meta")).steps.device.type == "cpu"


# --- installing


def test_wrappers_built_before_clip_without_reading_into_the_hub_they_have() -> None:
    before = clipping([parameter(3.0, 4.0)])
    assert type(before.message_hub) is TheirHub
    with install(norm_as_tensor=True), Reads() as reads:
        before.step()
    assert before.message_hub.get_scalar("train/grad_norm").current() == 5.0
    assert reads.by == {"MessageHub._get_valid_value": 1}


def test_a_wrapper_that_clips_in_its_own_way_goes_on_doing_so() -> None:
    clipped: list[OptimWrapper] = []

    class Own(OptimWrapper):  # type: ignore[misc]
        def _clip_grad(self) -> None:
            clipped.append(self)

    with install(norm_as_tensor=True):
        wrapper = clipping([parameter(3.0, 4.0)], kind=Own)
        wrapper.step()
    assert clipped == [wrapper]


def test_it_is_asked_for_once_and_ends_with_the_first_uninstall() -> None:
    with install():
        assert OptimWrapper._clip_grad is THEIR_CLIP_GRAD
        inner = install(norm_as_tensor=True)
        ours = OptimWrapper._clip_grad
        assert ours is not THEIR_CLIP_GRAD
        install(norm_as_tensor=True)
        install()
        assert OptimWrapper._clip_grad is ours
        inner.uninstall()
        assert OptimWrapper._clip_grad is THEIR_CLIP_GRAD
        inner.uninstall()


def test_a_replacement_by_somebody_else_is_not_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched, install(norm_as_tensor=True) as installation:
        patched.setattr(OptimWrapper, "_clip_grad", lambda wrapper: None)
        theirs = OptimWrapper._clip_grad
        installation.uninstall()
        assert OptimWrapper._clip_grad is theirs
    OptimWrapper._clip_grad = THEIR_CLIP_GRAD  # what the patch puts back is ours


def test_arguments_are_checked_before_anything_is_replaced() -> None:
    with pytest.raises(TypeError):
        install(None, norm_as_tensor=True)  # type: ignore[arg-type]
    assert OptimWrapper._clip_grad is THEIR_CLIP_GRAD
