"""Train neural networks through numerical solvers that offer no gradients."""

import sys as _sys
import warnings as _warnings
from typing import Any as _Any

from deepzero_sim.checks.gradient import GradientCheck, check_gradient
from deepzero_sim.checks.solver import SolverCheck, check_solver
from deepzero_sim.common.arguments import guard_calls as _guard_calls
from deepzero_sim.connectors import BMISolver, DakotaSolver, ExecutableSolver, TesseractSolver, UMBridgeSolver
from deepzero_sim.coupling import vjp as vjp
from deepzero_sim.coupling.evaluation import Evaluation, evaluate
from deepzero_sim.coupling.layer import SolverLayer
from deepzero_sim.coupling.loop import SolverLoop
from deepzero_sim.coupling.rollout_loss import RolloutLoss
from deepzero_sim.errors import (
    ConfigError,
    ConnectionLostError,
    DataError,
    DeepZeroError,
    DivergedError,
    ExitCodeError,
    InvalidStateError,
    MissingExtraError,
    MissingOutputError,
    NonFiniteError,
    RunError,
    ServerError,
    SolverCrashError,
    SolverError,
    SolverKilledError,
    SolverTimeoutError,
    StatesFailedError,
    UnreadableOutputError,
    WorkerLostError,
    WorkingFolderError,
)
from deepzero_sim.estimators import CGE, RGE, BackPropagation, Estimator, GradientEstimate
from deepzero_sim.estimators.sparsity import Densities, ErdosRenyi, GraSP, LayerRatios, RandomMask, Uniform, ZOGraSP
from deepzero_sim.execution.executors import open_executor
from deepzero_sim.oracle.base import Oracle
from deepzero_sim.oracle.loop import LoopOracle
from deepzero_sim.oracle.model import ModelOracle
from deepzero_sim.serving import ServedLoop, ServedLoss, ServedModel, ServedParameters, ServedSolver, serve
from deepzero_sim.solver.contract import DifferentiableSolver, Solver, as_solver
from deepzero_sim.solver.failure_policy import FailurePolicy
from deepzero_sim.solver.spec import SolverSpec
from deepzero_sim.training.build import warm_up_cosine
from deepzero_sim.training.progress import Progress
from deepzero_sim.training.run_folder import RunFolder
from deepzero_sim.training.trainer import Trainer

__all__ = [
    "CGE",
    "RGE",
    "BMISolver",
    "BackPropagation",
    "ConfigError",
    "ConnectionLostError",
    "DakotaSolver",
    "DataError",
    "DeepZeroError",
    "Densities",
    "DifferentiableSolver",
    "DivergedError",
    "ErdosRenyi",
    "Estimator",
    "Evaluation",
    "ExecutableSolver",
    "ExitCodeError",
    "FailurePolicy",
    "GraSP",
    "GradientCheck",
    "GradientEstimate",
    "InvalidStateError",
    "LayerRatios",
    "LoopOracle",
    "MissingExtraError",
    "MissingOutputError",
    "ModelOracle",
    "NonFiniteError",
    "Oracle",
    "Progress",
    "RandomMask",
    "RolloutLoss",
    "RunError",
    "RunFolder",
    "ServedLoop",
    "ServedLoss",
    "ServedModel",
    "ServedParameters",
    "ServedSolver",
    "ServerError",
    "Solver",
    "SolverCheck",
    "SolverCrashError",
    "SolverError",
    "SolverKilledError",
    "SolverLayer",
    "SolverLoop",
    "SolverSpec",
    "SolverTimeoutError",
    "StatesFailedError",
    "TesseractSolver",
    "Trainer",
    "UMBridgeSolver",
    "Uniform",
    "UnreadableOutputError",
    "WorkerLostError",
    "WorkingFolderError",
    "ZOGraSP",
    "as_solver",
    "check_gradient",
    "check_solver",
    "evaluate",
    "open_executor",
    "serve",
    "warm_up_cosine",
]

_guard_calls(__name__, runs=("check_gradient", "check_solver", "evaluate", "open_executor", "serve"))

# dz.vjp lies with the coupling it serves; settings files and users import it as deepzero_sim.vjp
_sys.modules[f"{__name__}.vjp"] = vjp


def __getattr__(name: str) -> _Any:
    """Public names of the first release, kept for one more."""
    if name == "RolloutError":
        _warnings.warn("dz.RolloutError is called dz.RolloutLoss now: rename it.", DeprecationWarning, stacklevel=2)
        return RolloutLoss
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
