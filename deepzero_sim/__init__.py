"""Train neural networks through numerical solvers that offer no gradients."""

from deepzero_sim import vjp as vjp
from deepzero_sim.check import GradientCheck, check_gradient
from deepzero_sim.connectors import DakotaSolver, ExecutableSolver
from deepzero_sim.contract import SolverCheck, check_solver
from deepzero_sim.coupling import SolverLoop
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
from deepzero_sim.estimator import CGE, RGE, BackPropagation, Estimator, GradientEstimate
from deepzero_sim.evaluation import Evaluation, evaluate
from deepzero_sim.layer import SolverLayer
from deepzero_sim.loss import RolloutError
from deepzero_sim.oracle import LoopOracle, ModelOracle, Oracle
from deepzero_sim.parallel import open_executor
from deepzero_sim.run_folder import RunFolder
from deepzero_sim.schedules import warm_up_cosine
from deepzero_sim.solver import DifferentiableSolver, Solver, SolverSpec, as_solver
from deepzero_sim.sparsity import Densities, ErdosRenyi, GraSP, LayerRatios, RandomMask, Uniform, ZOGraSP
from deepzero_sim.trainer import Progress, Trainer

__all__ = [
    "CGE",
    "RGE",
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
    "RolloutError",
    "RunError",
    "RunFolder",
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
    "Trainer",
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
    "warm_up_cosine",
]
