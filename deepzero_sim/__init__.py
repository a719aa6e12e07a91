"""Train neural networks through numerical solvers that offer no gradients.

Every public name is imported when it is first asked for. A new one stands here three times: among the imports, which type
checkers read; in the table, by which it is found; and in `__all__`.
"""

import warnings as _warnings
from importlib import import_module as _import_module
from typing import TYPE_CHECKING
from typing import Any as _Any

from deepzero_sim.common.public_names import Names as _Names
from deepzero_sim.common.public_names import add_alias as _add_alias

# these lie with what they serve; settings files and users import them as deepzero_sim.vjp and so on
for _room in ("couplings", "losses", "vjp"):
    _add_alias(f"{__name__}.{_room}", f"{__name__}.coupling.{_room}")
_add_alias(f"{__name__}.optim", f"{__name__}.estimators.optim")

if TYPE_CHECKING:
    from deepzero_sim import datasets as datasets
    from deepzero_sim import models as models
    from deepzero_sim import solvers as solvers
    from deepzero_sim.checks.gradient import GradientCheck, check_gradient
    from deepzero_sim.checks.solver import SolverCheck, check_solver
    from deepzero_sim.common.trained_parameter import TrainedParameter
    from deepzero_sim.connectors import BMISolver, DakotaSolver, ExecutableSolver, TesseractSolver, UMBridgeSolver
    from deepzero_sim.coupling import couplings as couplings
    from deepzero_sim.coupling import losses as losses
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
        ScaleWarning,
        ServerError,
        SolverCrashError,
        SolverError,
        SolverKilledError,
        SolverTimeoutError,
        StatesFailedError,
        TrainingWarning,
        UnreadableOutputError,
        WorkerLostError,
        WorkingFolderError,
    )
    from deepzero_sim.estimators import (
        CGE,
        EKI,
        RGE,
        BackPropagation,
        CoCD,
        Estimator,
        EvolutionStrategies,
        GaussNewton,
        GradientEstimate,
    )
    from deepzero_sim.estimators import optim as optim
    from deepzero_sim.estimators.sparsity import Densities, ErdosRenyi, GraSP, LayerRatios, RandomMask, Uniform, ZOGraSP
    from deepzero_sim.execution.executors import open_executor
    from deepzero_sim.oracle.base import Oracle
    from deepzero_sim.oracle.loop import LoopOracle
    from deepzero_sim.oracle.model import ModelOracle
    from deepzero_sim.serving import ServedLoop, ServedLoss, ServedModel, ServedParameters, ServedSolver, serve
    from deepzero_sim.solver.contract import DifferentiableSolver, Solver, as_solver
    from deepzero_sim.solver.failure_policy import FailurePolicy
    from deepzero_sim.solver.input_fields import InputField
    from deepzero_sim.solver.spec import SolverSpec
    from deepzero_sim.training.build import warm_up_cosine
    from deepzero_sim.training.progress import Progress
    from deepzero_sim.training.run_folder import RunFolder
    from deepzero_sim.training.runs.python import load_run, train
    from deepzero_sim.training.runs.saved_loop import TrainedLoop
    from deepzero_sim.training.trainer import Trainer

    __version__: str
else:
    _find = _Names(
        __name__,
        {
            "deepzero_sim.checks.gradient": ("GradientCheck", "check_gradient"),
            "deepzero_sim.checks.solver": ("SolverCheck", "check_solver"),
            "deepzero_sim.connectors": ("BMISolver", "DakotaSolver", "ExecutableSolver", "TesseractSolver", "UMBridgeSolver"),
            "deepzero_sim.coupling.evaluation": ("Evaluation", "evaluate"),
            "deepzero_sim.coupling.layer": ("SolverLayer",),
            "deepzero_sim.coupling.loop": ("SolverLoop",),
            "deepzero_sim.coupling.rollout_loss": ("RolloutLoss",),
            "deepzero_sim.common.trained_parameter": ("TrainedParameter",),
            "deepzero_sim.errors": (
                "ConfigError",
                "ConnectionLostError",
                "DataError",
                "DeepZeroError",
                "DivergedError",
                "ExitCodeError",
                "InvalidStateError",
                "MissingExtraError",
                "MissingOutputError",
                "NonFiniteError",
                "RunError",
                "ScaleWarning",
                "ServerError",
                "SolverCrashError",
                "SolverError",
                "SolverKilledError",
                "SolverTimeoutError",
                "StatesFailedError",
                "TrainingWarning",
                "UnreadableOutputError",
                "WorkerLostError",
                "WorkingFolderError",
            ),
            "deepzero_sim.estimators": (
                "CGE",
                "EKI",
                "RGE",
                "BackPropagation",
                "CoCD",
                "Estimator",
                "EvolutionStrategies",
                "GaussNewton",
                "GradientEstimate",
            ),
            "deepzero_sim.estimators.sparsity": (
                "Densities",
                "ErdosRenyi",
                "GraSP",
                "LayerRatios",
                "RandomMask",
                "Uniform",
                "ZOGraSP",
            ),
            "deepzero_sim.execution.executors": ("open_executor",),
            "deepzero_sim.oracle.base": ("Oracle",),
            "deepzero_sim.oracle.loop": ("LoopOracle",),
            "deepzero_sim.oracle.model": ("ModelOracle",),
            "deepzero_sim.serving": ("ServedLoop", "ServedLoss", "ServedModel", "ServedParameters", "ServedSolver", "serve"),
            "deepzero_sim.solver.contract": ("DifferentiableSolver", "Solver", "as_solver"),
            "deepzero_sim.solver.failure_policy": ("FailurePolicy",),
            "deepzero_sim.solver.input_fields": ("InputField",),
            "deepzero_sim.solver.spec": ("SolverSpec",),
            "deepzero_sim.training.build": ("warm_up_cosine",),
            "deepzero_sim.training.progress": ("Progress",),
            "deepzero_sim.training.run_folder": ("RunFolder",),
            "deepzero_sim.training.runs.python": ("load_run", "train"),
            "deepzero_sim.training.runs.saved_loop": ("TrainedLoop",),
            "deepzero_sim.training.trainer": ("Trainer",),
        },
        runs=("check_gradient", "check_solver", "evaluate", "load_run", "open_executor", "serve", "train"),
    )

    __dir__ = _find.listed

    #: Folders that are there without an import of their own: `dz.models.small`.
    _FOLDERS = (
        "checks",
        "cli",
        "common",
        "connectors",
        "coupling",
        "couplings",
        "datasets",
        "errors",
        "estimators",
        "execution",
        "losses",
        "models",
        "optim",
        "oracle",
        "serving",
        "solver",
        "solvers",
        "training",
        "vjp",
    )

    def __getattr__(name: str) -> _Any:
        """Find public names, folders, the version, and public names of the first release, kept for one more."""
        if name in _FOLDERS:
            return _import_module(f"{__name__}.{name}")
        if name == "__version__":
            return _import_module("importlib.metadata").version("deepzero-sim")
        if name == "RolloutError":
            _warnings.warn("dz.RolloutError is called dz.RolloutLoss now: rename it.", DeprecationWarning, stacklevel=2)
            return _find("RolloutLoss")
        return _find(name)


__all__ = [
    "CGE",
    "EKI",
    "RGE",
    "BMISolver",
    "BackPropagation",
    "CoCD",
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
    "EvolutionStrategies",
    "ExecutableSolver",
    "ExitCodeError",
    "FailurePolicy",
    "GaussNewton",
    "GraSP",
    "GradientCheck",
    "GradientEstimate",
    "InputField",
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
    "ScaleWarning",
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
    "TrainedLoop",
    "TrainedParameter",
    "Trainer",
    "TrainingWarning",
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
    "load_run",
    "open_executor",
    "serve",
    "train",
    "warm_up_cosine",
]
