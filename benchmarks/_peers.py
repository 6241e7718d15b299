"""What other libraries take for per-sample gradients of a two-layer tanh network, where they are installed.

Each is divided by a full-batch gradient of the same network in the same library and run.
"""

import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any


def peer_ratios(d: int = 256, n: int = 1024, repeats: int = 3) -> dict[str, tuple[float, float]]:
    """Name → (seconds of the gradient, ratio of the per-sample quantity to it); empty where nothing is installed."""
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    x, y = torch.randn(n, d), torch.randn(n, d)

    def network() -> Any:
        layers = torch.nn.Linear(d, d, bias=False), torch.nn.Tanh(), torch.nn.Linear(d, d, bias=False)
        return torch.nn.Sequential(*layers)

    plain = network()

    def gradient() -> None:
        plain.zero_grad()
        ((plain(x) - y) ** 2).sum(dim=1).mean().backward()

    candidates: dict[str, Callable[[], None]] = {"torch.func vmap(grad)": _torch_func(torch, network(), x, y)}
    if importlib.util.find_spec("opacus") is not None:
        candidates["Opacus GradSampleModule"] = _opacus(network(), x, y)
    if importlib.util.find_spec("backpack") is not None:
        candidates["BackPACK BatchGrad"] = _backpack(torch, network(), x, y, "BatchGrad")
        candidates["BackPACK BatchL2Grad, norms alone"] = _backpack(torch, network(), x, y, "BatchL2Grad")
    gradient()
    seconds: dict[str, list[float]] = {name: [] for name in ["gradient", *candidates]}
    for run in candidates.values():
        run()
    for _ in range(repeats):
        for name, run in {"gradient": gradient, **candidates}.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    base = medians.pop("gradient")
    return {name: (base, value / base) for name, value in medians.items()}


def _torch_func(torch: Any, net: Any, x: Any, y: Any) -> Callable[[], None]:
    weights = {name: value.detach() for name, value in net.named_parameters()}

    def loss(weights: Any, x: Any, y: Any) -> Any:
        return ((torch.func.functional_call(net, weights, (x[None],))[0] - y) ** 2).sum()

    per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    return lambda: per_sample(weights, x, y)


def _opacus(net: Any, x: Any, y: Any) -> Callable[[], None]:
    from opacus import GradSampleModule  # pyright: ignore[reportMissingImports]

    wrapped = GradSampleModule(net, loss_reduction="sum")

    def run() -> None:
        wrapped.zero_grad()
        ((wrapped(x) - y) ** 2).sum().backward()

    return run


def _backpack(torch: Any, net: Any, x: Any, y: Any, name: str) -> Callable[[], None]:
    from backpack import backpack, extend, extensions  # pyright: ignore[reportMissingImports]

    extended, loss = extend(net), extend(torch.nn.MSELoss(reduction="sum"))
    extension = getattr(extensions, name)

    def run() -> None:
        extended.zero_grad()
        with backpack(extension()):
            loss(extended(x), y).backward()

    return run
