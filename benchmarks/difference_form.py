"""Accuracy of finite differences in float32: carried through the network, or as a difference of two losses.

The loss of ResNet-20 is differenced along coordinates of every layer, at steps from 1e-6 to 1e-2, in three ways: with
differences carried through the network in float32 (and in bfloat16), as a difference of two float32 losses, and as a
difference of two float64 losses, which is the reference of the others. The error is `|d - d64| / |d64|`, with norms over the
coordinates.

Run: python benchmarks/difference_form.py [--figure docs/img/difference_form.png] [--batch 16] [--coordinates 2]
Prints one JSON object, after some minutes.
"""

import argparse
import copy
import json
from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

import deepzero_sim as dz
from deepzero_sim.execution.threads import single_threaded
from deepzero_sim.models import resnet20
from deepzero_sim.oracle.queries import Coordinates

STEPS = [10 ** (exponent / 2) for exponent in range(-12, -3)]


def sample(model: torch.nn.Module, count: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Draw some coordinates of every parameter."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        yield name, tuple(torch.randperm(parameter.numel(), generator=generator)[:count].tolist())


def engine_changes(oracle: dz.ModelOracle, batch: tuple[torch.Tensor, torch.Tensor], mu: float, count: int) -> torch.Tensor:
    """Compute changes of the loss, carried through the network."""
    queries = [Coordinates(name, indices, (mu,) * len(indices)) for name, indices in sample(oracle.model, count)]
    return oracle.ask(oracle.prepare(batch), queries).changes


@torch.no_grad()
def two_loss_changes(model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor], mu: float, count: int) -> torch.Tensor:
    """Compute changes of the loss, as differences of two losses in the model's dtype."""
    model = copy.deepcopy(model)
    inputs = batch[0].to(next(model.parameters()))
    base, changes = F.cross_entropy(model(inputs), batch[1]), []
    for name, indices in sample(model, count):
        weights = model.get_parameter(name).view(-1)
        for index in indices:
            before = weights[index].clone()
            weights[index] += mu
            changes.append(F.cross_entropy(model(inputs), batch[1]) - base)
            weights[index] = before
    return torch.stack(changes).double()


def errors(batch_size: int, count: int) -> dict[str, list[float]]:
    """Compute the error at every step, by way of computing."""
    torch.manual_seed(0)
    model = resnet20()
    batch = torch.randn(batch_size, 3, 32, 32), torch.randint(10, (batch_size,))
    oracles = {name: dz.ModelOracle(model, F.cross_entropy, precision=name) for name in ("float32", "bfloat16")}
    found: dict[str, list[float]] = {}
    for mu in STEPS:
        # the step that float32 weights take is the one that the float64 ones have to take
        exact = two_loss_changes(model.double(), batch, mu, count)
        model.float()
        ways = {f"carried, {name}": engine_changes(oracle, batch, mu, count) for name, oracle in oracles.items()}
        for way, changes in {**ways, "two losses, float32": two_loss_changes(model, batch, mu, count)}.items():
            found.setdefault(way, []).append(float((changes - exact).norm() / exact.norm()))
    return found


def draw(found: dict[str, list[float]], path: str) -> None:
    """Plot the errors over the step."""
    import matplotlib as mpl  # noqa: PLC0415 - an extra

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for (way, values), marker in zip(found.items(), "os^", strict=True):
        axes.loglog(STEPS, values, marker=marker, label=way)
    axes.axhline(1e-3, color="grey", linestyle=":", label="1e-3")
    axes.set(xlabel="step $\\mu$ (units of the weights)", ylabel="relative error of the finite difference")
    axes.set_title("ResNet-20: finite differences of the loss against float64")
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--figure", default=None)
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--coordinates", type=int, default=2)
    given = options.parse_args()
    with single_threaded():
        found = errors(given.batch, given.coordinates)
    if given.figure:
        draw(found, given.figure)
    print(json.dumps({"steps": STEPS, **found}))


if __name__ == "__main__":
    main()
