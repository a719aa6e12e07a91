"""Generated data: what they hold, that nothing shapes them but their settings, and that a kill costs time only."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import textwrap
from concurrent.futures import Executor
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from problems import wait_until
from runs import start, unfinished

from deepzero_sim.components import Component
from deepzero_sim.datasets import trajectories
from deepzero_sim.datasets.generate import Simulations, generate, software
from deepzero_sim.errors import ConfigError, DataError, DeepZeroError, NonFiniteError, SolverError, WorkerLostError
from deepzero_sim.parallel import SerialExecutor, open_executor
from deepzero_sim.solvers import WakeFlow
from deepzero_sim.solvers.wake import initial_state, restrict
from deepzero_sim.types import Array

WAKE = Simulations(
    reference=Component("deepzero_sim.solvers.WakeFlow", {"resolution": 16}),
    source=Component("deepzero_sim.solvers.WakeFlow", {"resolution": 8}),
    initial="deepzero_sim.solvers.wake.initial_state",
    restrict="deepzero_sim.solvers.wake.restrict",
    steps=30,
    discard=20,
)
REYNOLDS = [[100.0], [400.0]]
SLOW = [[100.0], [1.0]]


def make(
    path: Path, simulations: Simulations = WAKE, params: list[list[float]] = REYNOLDS, executor: Executor | None = None
) -> list[str]:
    """Generate, here unless said otherwise; what was reported."""
    said: list[str] = []
    generate(path, simulations, params, executor or SerialExecutor(), said.append)
    return said


def by_hand(reynolds: float) -> Array:
    fine, coarse = WakeFlow(16), WakeFlow(8)
    params = np.array([[reynolds]], dtype=np.float32)
    states, kept = initial_state(fine.spec, params), []
    for _ in range(30):
        kept.append(restrict(states, coarse.spec)[0])
        states = fine.step(states, params)
    return np.stack([*kept, restrict(states, coarse.spec)[0]])[20:]


def content(path: Path) -> dict[str, bytes]:
    """Everything in a file, bit for bit."""
    found: dict[str, bytes] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()].tobytes()}) if isinstance(item, h5py.Dataset) else None)
        return found | {f"@{key}": str(value).encode() for key, value in file.attrs.items()}


def test_frames_are_the_reference_solvers_on_the_sources_grid(tmp_path: Path) -> None:
    assert make(tmp_path / "wake.h5") == ["made", "made"]
    data = trajectories.load(tmp_path / "wake.h5", WakeFlow(8).spec)
    assert data.frames.shape == (2, 11, 2, 17, 9) and data.frames.dtype == np.float32
    for frames, (reynolds,) in zip(data.frames, REYNOLDS, strict=True):
        assert np.array_equal(frames, by_hand(reynolds))
    assert data.params.tolist() == REYNOLDS
    assert np.array_equal(data.mask, WakeFlow(8).spec.active()) and not data.frames[:, :, ~data.mask].any()


def test_a_file_says_what_it_holds(tmp_path: Path) -> None:
    make(tmp_path / "wake.h5")
    with h5py.File(tmp_path / "wake.h5") as file:
        assert file["axes/velocity_y/y"][:].tolist() == [12.5 * i for i in range(17)]
        assert file["axes/velocity_y/x"][:3].tolist() == [6.25, 18.75, 31.25]
        assert file["axes/velocity_x/y"][0] == 6.25 and file["axes/velocity_x/x"][0] == 0
        said = dict(file.attrs)
    assert (said["format"], said["version"], said["name"], said["dt"]) == ("deepzero-sim trajectories", 1, "wake", 1.0)
    assert said["first_step"] == 20
    assert (
        json.loads(said["channels"]) == ["velocity_y", "velocity_x"]
        and json.loads(said["channel_units"]) == ["length/time"] * 2
    )
    assert json.loads(said["parameters"]) == ["reynolds"] and json.loads(said["parameter_units"]) == ["1"]
    settings = json.loads(said["settings"])
    assert settings["simulations"]["reference"] == {"name": "deepzero_sim.solvers.WakeFlow", "args": {"resolution": 16}}
    assert settings["params"] == REYNOLDS and settings["simulations"]["steps"] == 30
    assert json.loads(said["software"]) == software() and {"python", "numpy", "deepzero-sim"} <= set(software())


def test_a_card_lies_beside_it(tmp_path: Path) -> None:
    make(tmp_path / "wake.h5")
    card = (tmp_path / "wake.md").read_text()
    for said in (
        "2 simulations of 11 frames",
        "WakeFlow",
        "'resolution': 16",
        "velocity_y",
        "length/time",
        "| 1 | 400 |",
        "numpy",
    ):
        assert said in card
    assert sorted(path.name for path in tmp_path.iterdir()) == ["wake.h5", "wake.md"]


def test_workers_change_no_bit(tmp_path: Path, executors: dict[str, Executor]) -> None:
    for name in ("serial", "thread", "one process", "two processes"):
        make(tmp_path / f"{name}.h5", executor=executors[name])
    assert all(content(tmp_path / f"{name}.h5") == content(tmp_path / "serial.h5") for name in executors)


def test_the_same_settings_again_make_nothing(tmp_path: Path) -> None:
    make(tmp_path / "wake.h5")
    before = (tmp_path / "wake.h5").stat().st_mtime_ns
    said: list[str] = []
    assert generate(tmp_path / "wake.h5", WAKE, REYNOLDS, SerialExecutor(), said.append) is False
    assert not said and (tmp_path / "wake.h5").stat().st_mtime_ns == before


@pytest.mark.parametrize("what", ["steps", "params", "reference"])
def test_other_settings_never_replace_a_file(tmp_path: Path, what: str) -> None:
    make(tmp_path / "wake.h5")
    before = content(tmp_path / "wake.h5")
    changes = {
        "steps": {"steps": 31},
        "reference": {"reference": Component("deepzero_sim.solvers.WakeFlow", {"resolution": 24})},
    }
    other = replace(WAKE, **changes.get(what, {}))
    with pytest.raises(DataError, match="was made with other settings: name another output, or delete it"):
        make(tmp_path / "wake.h5", other, [[100.0]] if what == "params" else REYNOLDS)
    assert content(tmp_path / "wake.h5") == before


def test_a_file_of_another_origin_is_never_replaced(tmp_path: Path) -> None:
    make(tmp_path / "wake.h5")
    with h5py.File(tmp_path / "wake.h5", "a") as file:
        del file.attrs["settings"]
    with pytest.raises(DataError, match="was made with other settings"):
        make(tmp_path / "wake.h5")
    (tmp_path / "text.h5").write_text("notes")
    with pytest.raises(DataError, match="cannot be read"):
        make(tmp_path / "text.h5")
    assert (tmp_path / "text.h5").read_text() == "notes"


def config(folder: Path, steps: int) -> Path:
    """Four simulations as a YAML file of `deepzero-sim generate`."""
    simulations = {
        "reference": {"name": "deepzero_sim.solvers.WakeFlow", "args": {"resolution": 16}},
        "source": {"name": "deepzero_sim.solvers.WakeFlow", "args": {"resolution": 8}},
        "initial": WAKE.initial,
        "restrict": WAKE.restrict,
        "steps": steps,
        "discard": steps - 10,
    }
    files = [{"output": str(folder / "wake.h5"), "params": [[100.0], [200.0], [300.0], [400.0]]}]
    path = folder / "generate.yaml"
    path.write_text(yaml.safe_dump({"simulations": simulations, "files": files, "workers": {"backend": "process", "count": 2}}))
    return path


@pytest.mark.slow
def test_killed_and_called_again_it_ends_the_same(tmp_path: Path) -> None:
    steps, killed, whole = 1500, tmp_path / "killed", tmp_path / "whole"
    killed.mkdir()
    process = start("generate", "--config", config(killed, steps), cwd=killed)
    assert wait_until(lambda: bool(list(killed.glob("*.parts/*.h5"))) or process.poll() is not None, 60)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
    assert not (killed / "wake.h5").exists()
    for part in killed.glob("*.parts/*.h5"):
        with h5py.File(part) as file:
            assert file["frames"].shape == (11, 2, 17, 9)
    simulations, params = replace(WAKE, steps=steps, discard=steps - 10), [[100.0], [200.0], [300.0], [400.0]]
    said = make(killed / "wake.h5", simulations, params)
    assert 1 <= said.count("found") < 4 and len(said) == 4
    assert make(whole / "wake.h5", simulations, params) == ["made"] * 4
    assert content(killed / "wake.h5") == content(whole / "wake.h5")
    assert not unfinished(killed) and not list(killed.glob("*.parts"))


def test_a_kill_just_before_the_end_leaves_nothing_behind(tmp_path: Path) -> None:
    make(tmp_path / "wake.h5")
    settings = {"simulations": asdict(WAKE), "params": REYNOLDS}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    (tmp_path / f"wake.h5.{digest}.parts").mkdir()
    assert make(tmp_path / "wake.h5") == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["wake.h5", "wake.md"]


def test_what_is_finished_stays_and_is_never_mixed_with_other_settings(users: Path) -> None:
    with pytest.raises(SolverError, match="solver 'wake' raised ValueError: too slow"):
        make(users / "wake.h5", user("reference", "Fails"), SLOW)
    assert not (users / "wake.h5").exists() and not unfinished(users)
    assert len(list(users.glob("wake.h5.*.parts/*.h5"))) == 1
    said: list[str] = []
    with pytest.raises(SolverError):
        generate(users / "wake.h5", user("reference", "Fails"), SLOW, SerialExecutor(), said.append)
    assert said == ["found"]
    assert make(users / "wake.h5", params=SLOW) == ["made", "made"]


USER = """
    import os
    import numpy as np
    from deepzero_sim.solvers import WakeFlow
    from deepzero_sim.solvers.wake import initial_state, restrict

    class Diverges(WakeFlow):
        def step(self, states, params=None):
            return states * np.float32(1e30)

    class Fails(WakeFlow):
        def step(self, states, params=None):
            if (params < 10).any():
                raise ValueError("too slow")
            return super().step(states, params)

    class Grows(WakeFlow):
        def step(self, states, params=None):
            return np.concatenate([states, states])

    class Dies(WakeFlow):
        def step(self, states, params=None):
            os._exit(1)

    def raises(*args):
        raise KeyError("no state")

    def wrong_shape(*args):
        return np.zeros((1, 2, 3, 4), np.float32)
"""


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "user.py").write_text(textwrap.dedent(USER))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def user(key: str, name: str) -> Simulations:
    file = Path("user.py").resolve()  # shared workers stand in another folder
    if name[0].isupper():
        return replace(WAKE, reference=Component(f"{file}:{name}", {"resolution": 16}))
    return replace(WAKE, **{key: f"{file}:{name}"})


FAILURES = [
    ("reference", "Diverges", NonFiniteError, "what solver 'wake' returned must be finite"),
    ("reference", "Grows", SolverError, r"what solver 'wake' returned must have shape \(1, 2, 33, 17\), not \(2, "),
    ("initial", "raises", ConfigError, "user.py:raises raised KeyError"),
    ("restrict", "raises", ConfigError, "user.py:raises raised KeyError"),
    ("initial", "wrong_shape", SolverError, r"must have shape \(.*, 2, 33, 17\), not \(1, 2, 3, 4\)"),
    ("restrict", "wrong_shape", SolverError, r"user.py:wrong_shape returned must have shape \(1, 2, 17, 9\)"),
    ("initial", "no_such", ConfigError, "user.py has no 'no_such'"),
]


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("where", ["serial", "two processes"])
@pytest.mark.parametrize(("key", "name", "error", "says"), FAILURES)
def test_failures_end_in_a_sentence(
    users: Path, executors: dict[str, Executor], where: str, key: str, name: str, error: type[DeepZeroError], says: str
) -> None:
    with pytest.raises(error, match=says):
        make(users / "wake.h5", user(key, name), executor=executors[where])
    assert not (users / "wake.h5").exists() and not unfinished(users)


def test_a_worker_that_dies_ends_in_a_sentence(users: Path) -> None:
    with pytest.raises(WorkerLostError, match="a worker process died"), open_executor("process", 2) as executor:
        make(users / "wake.h5", user("reference", "Dies"), executor=executor)
    assert not (users / "wake.h5").exists()


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ([], "no simulations are asked for"),
        ([[1.0, 2.0]], r"needs 1 parameters \(reynolds\) for solver 'wake', but one has 2"),
        ([[100.0], []], "one has 0"),
        ([[1e-9]], "needs Reynolds numbers of at least"),
    ],
)
def test_parameters_must_fit_the_solver(tmp_path: Path, params: list[list[float]], says: str) -> None:
    with pytest.raises(DeepZeroError, match=says):
        make(tmp_path / "wake.h5", params=params)


@pytest.mark.parametrize(("steps", "discard"), [(10, 10), (10, -1), (0, 0)])
def test_a_simulation_keeps_some_steps(steps: int, discard: int) -> None:
    with pytest.raises(ConfigError, match="more steps than are discarded"):
        replace(WAKE, steps=steps, discard=discard)


def test_a_damaged_part_is_named(users: Path) -> None:
    with pytest.raises(SolverError):
        make(users / "wake.h5", user("reference", "Fails"), SLOW)
    (part,) = users.glob("*.parts/*.h5")
    part.write_bytes(b"damaged")
    (users / "user.py").write_text(textwrap.dedent(USER).replace("params < 10", "params < 0"))
    # a new process imports the mended file
    with pytest.raises(DataError, match=r"0000\.h5 cannot be read .* delete it"), open_executor("process", 1) as executor:
        make(users / "wake.h5", user("reference", "Fails"), SLOW, executor)
