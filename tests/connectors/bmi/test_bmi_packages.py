"""Components through the packages that the page names: a compiled library by xmipy, one in another process by grpc4bmi."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from bmi_tanks import Tanks
from programs import compiled
from xmipy import XmiWrapper

from deepzero_sim.common.types import Array
from deepzero_sim.connectors.bmi.solver import BMISolver
from deepzero_sim.errors import ConfigError, InvalidStateError, SolverCrashError
from deepzero_sim.solver.stepping import checked_step

STATES = np.random.default_rng(0).random((3, 1, 2, 3))
PARAMS = np.array([[0.1, 1.0], [0.2, 2.0], [0.3, 5.0]])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (path := tmp_path / "component.txt").write_text("")
    return path


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], XmiWrapper]:
    """What MODFLOW 6 is to xmipy: a library of C."""
    folder = tmp_path_factory.mktemp("xmi")
    path = compiled(Path(__file__).with_name("xmi_decay.c"), folder, "cc", "-shared", "-fPIC")
    return functools.partial(XmiWrapper, path, working_directory=folder)


def decay(states: Array, params: Array) -> Array:
    """One step of `xmi_decay.c`."""
    rates, substeps = params[:, 0, None, None, None], params[:, 1, None, None, None]
    own = np.arange(1, 7).reshape(2, 3)
    return np.asarray(states * (1 - 0.25 / substeps * rates * own) ** substeps)


@pytest.mark.parametrize("reuse", [False, True])
def test_a_library_of_c_is_a_solver_by_xmipy(library: Callable[[], XmiWrapper], config: Path, reuse: bool) -> None:
    solver = BMISolver(library, config, {"u": "U"}, {"rate": "RATE", "substeps": "SUBSTEPS"}, reuse=reuse)
    spec = solver.spec
    assert (spec.state_shape, spec.dt, spec.dtype, spec.axes) == ((1, 2, 3), 0.25, "float64", ("y", "x"))
    assert (spec.channels, spec.parameters, spec.name) == (("u",), ("rate", "substeps"), "decay")
    np.testing.assert_allclose(checked_step(solver, STATES, PARAMS), decay(STATES, PARAMS), rtol=1e-14)
    with pytest.raises(InvalidStateError, match=r"'SUBSTEPS' holds whole numbers \(int32\), but it was given 1.5"):
        checked_step(solver, STATES[:1], np.array([[0.1, 1.5]]))
    solver.close()


def test_a_library_takes_several_steps_a_call(library: Callable[[], XmiWrapper], config: Path) -> None:
    solver = BMISolver(library, config, ["U"], ["RATE", "SUBSTEPS"], steps_per_call=3)
    expected = STATES
    for _ in range(3):
        expected = decay(expected, PARAMS)
    np.testing.assert_allclose(checked_step(solver, STATES, PARAMS), expected, rtol=1e-13)


def test_what_a_library_does_not_know_is_said_in_its_words(library: Callable[[], XmiWrapper], config: Path) -> None:
    with pytest.raises(ConfigError, match=r"names U, RATE, SUBSTEPS, not 'V' .*XMIError.*no such variable"):
        BMISolver(library, config, ["V"])


def test_two_solvers_of_one_library_do_not_mix_their_states(library: Callable[[], XmiWrapper], config: Path) -> None:
    fresh, kept = (BMISolver(library, config, ["U"], ["RATE", "SUBSTEPS"], reuse=reuse) for reuse in (False, True))
    np.testing.assert_allclose(checked_step(kept, STATES, PARAMS), decay(STATES, PARAMS), rtol=1e-14)
    np.testing.assert_allclose(checked_step(fresh, 2 * STATES, PARAMS), decay(2 * STATES, PARAMS), rtol=1e-14)
    with pytest.raises(SolverCrashError, match="shares its memory, so leave out reuse"):
        checked_step(kept, STATES, PARAMS)
    kept.close()


class CTanks(Tanks):
    """As C names types, in single precision."""

    dtypes: ClassVar = dict.fromkeys(Tanks.dtypes, "f4")
    words: ClassVar = dict.fromkeys(Tanks.dtypes, "float")
    end = float("nan")

    def get_component_name(self) -> str:
        return "tanks"

    def get_var_units(self, name: str) -> str:
        return ""


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Any]]:
    """A component behind gRPC."""
    monkeypatch.setenv("GRPC_ENABLE_FORK_SUPPORT", "0")  # it is read at import: other tests of this process fork
    import grpc  # noqa: PLC0415
    from grpc4bmi import bmi_pb2_grpc  # noqa: PLC0415
    from grpc4bmi.bmi_grpc_client import BmiClient  # noqa: PLC0415
    from grpc4bmi.bmi_grpc_server import BmiServer  # noqa: PLC0415

    server = grpc.server(futures.ThreadPoolExecutor(1))
    bmi_pb2_grpc.add_BmiServiceServicer_to_server(BmiServer(CTanks()), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield lambda: BmiClient(stub=bmi_pb2_grpc.BmiServiceStub(channel))
    server.stop(0).wait()


def test_a_component_behind_grpc_is_a_solver(remote: Callable[[], Any], config: Path) -> None:
    solver = BMISolver(remote, config, ["volume"], ["rate"])
    assert (solver.spec.name, solver.spec.dtype, solver.spec.channel_units) == ("tanks", "float32", ())
    states, rates = np.random.default_rng(0).random((2, 1, 4)).astype("f4"), np.array([[0.5], [1.0]], "f4")
    np.testing.assert_array_equal(checked_step(solver, states, rates), states * (1 - np.float32(0.5) * rates[:, :, None]))
    with pytest.raises(ConfigError, match="not 'depth'"):
        BMISolver(remote, config, ["depth"])
