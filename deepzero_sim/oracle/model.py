"""The loss of a plain network as an oracle."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch

from deepzero_sim.common.module_state import copy_tensors
from deepzero_sim.common.requirements import is_count, require, require_one_of
from deepzero_sim.errors import ConfigError
from deepzero_sim.oracle.answers import Answers
from deepzero_sim.oracle.base import Loss, Oracle, as_batch_tensor, describe_batch
from deepzero_sim.oracle.loss_module import NetworkWithLoss
from deepzero_sim.oracle.perturbed_network import Footprint, PerturbedNetwork, UnperturbedPass
from deepzero_sim.oracle.queries import PartOfOne, Perturbation, parts_of, split_into_chunks
from deepzero_sim.oracle.remote import PassCache
from deepzero_sim.oracle.residuals import ResidualRequest, residual_model
from deepzero_sim.solver.failure_policy import Account

#: Type that differences are carried in: the network's own, or bfloat16, which rounds them but not what they differ from.
Precision: TypeAlias = Literal["float32", "bfloat16"]

#: Bytes of differences in a chunk, by type of device. On CPUs 32 MiB, of 4 to 32, were the fastest for ResNet-20 at batch 64,
#: though not by much: eight queries behind its last convolutions. On a GPU nothing was measured yet: enough that launches
#: should not matter.
WORKING_SET = defaultdict(lambda: 2**30, cpu=32 * 2**20)

#: Most perturbed networks evaluated as one batch.
MOST_QUERIES = 256


class ModelBatch(NamedTuple):
    """A batch of a plain network.

    Args:
        inputs: Inputs of the network.
        targets: Targets of the loss.
        loss: Loss of the unperturbed network.
        footprint: Memory and time of a query, by parameter.
        token: Name of the batch and the network's state.
        account: Cost in solver steps: none.
    """

    inputs: tuple[Any, ...]
    targets: Any
    loss: float
    footprint: Mapping[str, Footprint]
    token: str
    account: Account = Account()


class ModelOracle(Oracle):
    """The loss of a plain network. Batches are `(inputs, targets)`; several inputs are a tuple.

    Args:
        model: Network called as ``model(inputs)``, or ``model(*inputs)`` for a tuple.
        loss: Function `(outputs, targets) -> scalar`, such as ``torch.nn.functional.cross_entropy``.
        executor: Executor that answers chunks of queries; this thread if None.
        queries_per_chunk: Most perturbed networks evaluated as one batch; None for as many as `working_set` holds.
        precision: Type of the differences, ``"float32"`` for the network's own dtype, or ``"bfloat16"``.
        working_set: Bytes of differences that a chunk keeps at once: what stays in the cache is fastest.
        memory: Bytes that activations and differences may take together, in every worker.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        loss: Loss,
        executor: Executor | None = None,
        queries_per_chunk: int | None = None,
        precision: Precision = "float32",
        working_set: int | None = None,
        memory: int = 8 * 2**30,
    ) -> None:
        super().__init__(model, loss, executor, MOST_QUERIES if queries_per_chunk is None else queries_per_chunk)
        require_one_of(precision, get_args(Precision), "precision")
        for name, size in {"memory": memory, **({} if working_set is None else {"working_set": working_set})}.items():
            require(is_count(size), f"{name} must be a positive whole number of bytes", size)
        self.precision = precision
        self.working_set = working_set
        self.memory = memory
        self._whole = NetworkWithLoss(model, loss)
        self._passes_to_outputs = PassCache()
        dtype = torch.bfloat16 if precision == "bfloat16" else None
        self._network = PerturbedNetwork(model, self._whole, "network.", dtype, rounded_once=True, memory=memory)
        self._outputs = PerturbedNetwork(model, dtype=dtype, rounded_once=True, memory=memory)

    def prepare(self, batch: Any) -> ModelBatch:
        inputs, targets = self._tensors(batch)
        unperturbed = self._network.unperturbed_pass(inputs, targets)
        footprint = self._network.footprint(unperturbed)
        prepared = ModelBatch(inputs, targets, float(unperturbed.result), footprint, uuid.uuid4().hex)
        self._passes.put(prepared.token, unperturbed)
        return prepared

    def preparation_steps(self, batch: Any) -> int:
        return 0

    def _tensors(self, batch: Any) -> tuple[tuple[Any, ...], Any]:
        if not isinstance(batch, Sequence) or len(batch) != 2:
            raise ConfigError(f"a batch must be (inputs, targets), not {describe_batch(batch)}.")
        inputs, targets = (tuple(map(as_batch_tensor, x)) if isinstance(x, tuple) else as_batch_tensor(x) for x in batch)
        inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        # images with their channels innermost: everything behind them follows, and runs faster
        return tuple(x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for x in inputs), targets

    def chunks(self, prepared: ModelBatch, perturbations: Sequence[Perturbation]) -> list[Perturbation]:
        chunks: list[Perturbation] = []
        for perturbation in perturbations:
            for part in parts_of(perturbation) or (perturbation,):
                chunks += split_into_chunks([part], self._queries_at_once(prepared, part))
        return chunks

    def _queries_at_once(self, prepared: ModelBatch, part: Perturbation) -> int:
        """Count the queries that the working set holds."""
        if not isinstance(part, PartOfOne) or part.name not in prepared.footprint:
            return min(16, self.queries_per_chunk)
        wanted = WORKING_SET[next(self.model.parameters()).device.type] if self.working_set is None else self.working_set
        return max(1, min(self.queries_per_chunk, wanted // max(1, prepared.footprint[part.name].size)))

    def cost(self, prepared: ModelBatch, chunk: Perturbation) -> float:
        footprint, parts = prepared.footprint, parts_of(chunk)
        if not parts or not all(part.name in footprint for part in parts):
            return len(chunk) * max((f.seconds for f in footprint.values()), default=1.0)
        return sum(len(part) * footprint[part.name].seconds for part in parts)

    def residuals(self, prepared: ModelBatch) -> torch.Tensor:
        return residual_model(self.loss_function).base(self._pass_to_outputs(prepared).result, prepared.targets)

    def _pass_to_outputs(self, prepared: ModelBatch) -> UnperturbedPass:
        """Return the pass of the network without its loss."""
        return self._passes_to_outputs.get(prepared.token, lambda: self._outputs.unperturbed_pass(*prepared.inputs))

    def evaluate(
        self,
        prepared: ModelBatch,
        perturbation: Perturbation,
        only: Collection[int] | None = None,
        request: ResidualRequest | None = None,
    ) -> Answers:
        if request is not None:
            return self._evaluate_with_residuals(prepared, perturbation, request)
        unperturbed = self._passes.get(
            prepared.token, lambda: self._network.unperturbed_pass(prepared.inputs, prepared.targets)
        )
        return Answers(self._network.changes(unperturbed, perturbation).double(), prepared.loss, 0)

    def _evaluate_with_residuals(self, prepared: ModelBatch, perturbation: Perturbation, request: ResidualRequest) -> Answers:
        """Answer by the network without its loss, of which the residuals are made; changes of the loss are their model's."""
        model, targets = residual_model(self.loss_function), prepared.targets
        unperturbed = self._pass_to_outputs(prepared)
        outputs, moved = unperturbed.result, self._outputs.changes(unperturbed, perturbation)
        found = model.changes(outputs, targets, moved)
        changes = found.double() @ model.base(outputs, targets) + found.double().square().sum(1) / 2
        return Answers(changes, prepared.loss, 0, residuals=request.project(found))

    def differentiable_loss(self, batch: Any) -> tuple[torch.Tensor, Account]:
        inputs, targets = self._tensors(batch)
        return self._whole(*copy_tensors((inputs, targets))), Account()  # the network and the loss may write into them

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_passes_to_outputs": PassCache()}
