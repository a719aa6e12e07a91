"""Generated data: what they hold, that nothing shapes them but their settings, and that a kill costs time only."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import Executor
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from problems import wait_until
from training_cases import start, unfinished

from deepzero_sim.cli.generate import make_data
from deepzero_sim.cli.settings.generate import DataFile, GenerateSettings
from deepzero_sim.common.components import Component
from deepzero_sim.common.types import Array
from deepzero_sim.datasets import frames, trajectories
from deepzero_sim.datasets.generation.generate import Simulations, generate, software
from deepzero_sim.errors import ConfigError, DataError, DeepZeroError, NonFiniteError, SolverError, WorkerLostError
from deepzero_sim.execution.executors import open_executor
from deepzero_sim.execution.tasks import SerialExecutor
from deepzero_sim.solvers import WakeFlow
from deepzero_sim.solvers.wake import initial_state, restrict
from deepzero_sim.training.runs.settings import Workers

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


def by_hand(params: list[list[float]]) -> Array:
    """Simulate several Reynolds numbers in one call a step, as generating does: libraries may round by the size of a call."""
    fine, coarse = WakeFlow(16), WakeFlow(8)
    rows = np.array(params, dtype=np.float32)
    states, kept = initial_state(fine.spec, rows), []
    for _ in range(30):
        kept.append(restrict(states, coarse.spec))
        states = fine.step(states, rows)
    return np.stack([*kept, restrict(states, coarse.spec)], axis=1)[:, 20:]


def parts_of(folder: Path) -> Path:
    """Folder of the finished simulations of a file, by a digest of what it is made of: what is not said does not count."""
    simulations = {key: value for key, value in asdict(WAKE).items() if key != "batch_size"}
    made_of = json.dumps({"simulations": simulations, "params": REYNOLDS}, sort_keys=True)
    return folder / f"wake.h5.{hashlib.sha256(made_of.encode()).hexdigest()[:12]}.parts"


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
    assert np.array_equal(data.frames, by_hand(REYNOLDS))
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
        "batch_size": 1,
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
    simulations, params = replace(WAKE, steps=steps, discard=steps - 10, batch_size=1), [[100.0], [200.0], [300.0], [400.0]]
    said = make(killed / "wake.h5", simulations, params)
    assert 1 <= said.count("found") < 4 and len(said) == 4
    assert make(whole / "wake.h5", simulations, params) == ["made"] * 4
    assert content(killed / "wake.h5") == content(whole / "wake.h5")
    assert not unfinished(killed) and not list(killed.glob("*.parts"))


def test_a_kill_just_before_the_end_leaves_nothing_behind(tmp_path: Path) -> None:
    make(tmp_path / "wake.h5")
    parts_of(tmp_path).mkdir()
    assert make(tmp_path / "wake.h5") == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["wake.h5", "wake.md"]


def test_what_a_worker_of_a_killed_call_left_of_a_finished_part_is_removed(tmp_path: Path) -> None:
    make(tmp_path / "wake.h5")
    parts_of(tmp_path).mkdir()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for name in ("0002.h5", f".0002.h5.9eded58a.{ended.pid}.part"):
        (parts_of(tmp_path) / name).touch()
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


NOTES = "# My notes\nnever to be lost\n"


@pytest.mark.parametrize("content", [NOTES, "", "# wake.h5\n", "\n<!-- deepzero-sim generate made this -->\n"])
@pytest.mark.parametrize("name", ["wake.md", "wake.failures.jsonl"])
def test_a_file_of_somebody_else_s_is_never_replaced(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=rf"{name} was not made by this program for .*wake\.h5, or was changed since"):
        make(tmp_path / "wake.h5")
    assert (tmp_path / name).read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == [name]  # nothing was computed


def test_whatever_stands_where_the_card_would_lie_stays(tmp_path: Path) -> None:
    (tmp_path / "a.md").mkdir()
    os.mkfifo(tmp_path / "b.md")
    (tmp_path / "c.md").write_bytes(b"\xff\xfe" * 10)
    for name in "abc":
        with pytest.raises(DataError, match=rf"{name}\.md was not made by this program"):
            make(tmp_path / f"{name}.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.md", "b.md", "c.md"]


def test_a_card_of_ours_is_replaced_unless_it_was_changed_or_is_of_another_file(tmp_path: Path) -> None:
    make(tmp_path / "wake.h5")
    first = (tmp_path / "wake.md").read_text()
    (tmp_path / "wake.h5").unlink()
    make(tmp_path / "wake.h5", replace(WAKE, discard=25))
    assert (tmp_path / "wake.md").read_text() != first
    with pytest.raises(DataError, match=r"wake\.md was not made by this program for .*wake\.hdf5"):
        make(tmp_path / "wake.hdf5")
    (tmp_path / "wake.h5").unlink()
    with (tmp_path / "wake.md").open("a") as card:
        card.write("a note of mine\n")
    with pytest.raises(DataError, match="or was changed since"):
        make(tmp_path / "wake.h5")
    assert (tmp_path / "wake.md").read_text().endswith("a note of mine\n")


def test_a_list_of_failures_of_ours_is_replaced(tmp_path: Path) -> None:
    line = json.dumps({"kind": "timeout", "action": "retried", "message": "m", "query": "", "kept": ""})
    (tmp_path / "wake.failures.jsonl").write_text(f"{line}\n{line}\n")
    assert make(tmp_path / "wake.h5") == ["made", "made"]


def test_files_of_others_among_the_parts_stay(tmp_path: Path) -> None:
    parts = parts_of(tmp_path)
    parts.mkdir()
    (parts / "thesis.txt").write_text("mine")
    make(tmp_path / "wake.h5")
    assert [path.name for path in parts.iterdir()] == ["thesis.txt"]


def test_a_part_of_another_shape_or_with_values_elsewhere_is_refused(tmp_path: Path) -> None:
    part = parts_of(tmp_path) / "0000.h5"
    part.parent.mkdir()
    (tmp_path / "secret").write_bytes(bytes(11 * 2 * 17 * 9 * 4))
    for options, says in (
        (
            {"data": np.zeros((1, 2, 17, 9), np.float32)},
            r"its frames are float32 of shape \(1, 2, 17, 9\), not float32 of shape \(11,",
        ),
        ({"data": np.zeros((11, 2, 17, 9))}, "its frames are float64 of shape"),
        ({"shape": (11, 2, 17, 9), "dtype": "f4", "external": [(str(tmp_path / "secret"), 0, 13464)]}, "values in other files"),
        ({"shape": (11, 2, 17, 9), "dtype": "f4"}, "was never written"),
    ):
        with h5py.File(part, "w") as file:
            file.create_dataset("frames", **options)
        with pytest.raises(DataError, match=says):
            make(tmp_path / "wake.h5")
    assert not (tmp_path / "wake.h5").exists()


LATE = """
    from dataclasses import replace
    from deepzero_sim.solvers import WakeFlow

    class Half(WakeFlow):
        def __init__(self, resolution):
            super().__init__(resolution)
            self.spec = replace(self.spec, dt=0.5)

    class Speed(WakeFlow):
        def __init__(self, resolution):
            super().__init__(resolution)
            self.spec = replace(self.spec, parameters=("speed",))
"""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Half", r"its dt is 0\.5, not 1 \(2 of its steps\)"),
        ("Speed", r"its parameters are \(speed\), not \(reynolds\)"),
    ],
)
def test_a_reference_of_another_step_is_refused_before_it_runs(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "user.py").write_text(textwrap.dedent(LATE))
    simulations = replace(WAKE, reference=Component(f"{tmp_path / 'user.py'}:{name}", {"resolution": 16}))
    with pytest.raises(ConfigError, match=f"reference 'wake' must take the same step for the same parameters .*{says}"):
        make(tmp_path / "out" / "wake.h5", simulations)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("settings", ["no JSON", "[1", h5py.Empty("S1"), 3, np.array(["a", "b"], dtype=h5py.string_dtype())])
def test_a_file_with_settings_that_are_none_is_of_another_origin(tmp_path: Path, settings: object) -> None:
    make(tmp_path / "wake.h5")
    with h5py.File(tmp_path / "wake.h5", "a") as file:
        file.attrs["settings"] = settings
    with pytest.raises(DataError, match="was made with other settings"):
        make(tmp_path / "wake.h5")


def test_the_output_is_a_path_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the output must be an HDF5 file"):
        make(tmp_path / "a\0b.h5")
    os.mkfifo(tmp_path / "pipe.h5")
    with pytest.raises(DataError, match="that is a named pipe"):
        make(tmp_path / "pipe.h5")


@pytest.mark.parametrize("second", ["wake.h5", "./wake.h5", "wake.hdf5"])
def test_outputs_that_share_a_file_or_a_card_are_refused_at_once(tmp_path: Path, second: str) -> None:
    files = [DataFile(tmp_path / "wake.h5", REYNOLDS), DataFile(Path(f"{tmp_path}/{second}"), REYNOLDS)]
    with pytest.raises(ConfigError, match="each output must have a name and a card of its own"):
        GenerateSettings(WAKE, files)


def test_a_note_beside_the_last_output_is_seen_before_the_first_is_made(tmp_path: Path) -> None:
    (tmp_path / "test.md").write_text(NOTES)
    files = [DataFile(tmp_path / "train.h5", REYNOLDS), DataFile(tmp_path / "test.h5", REYNOLDS)]
    with pytest.raises(DataError, match=r"test\.md was not made by this program"):
        make_data(GenerateSettings(WAKE, files, Workers("serial", 1)))
    assert [path.name for path in tmp_path.iterdir()] == ["test.md"]


def test_more_frames_than_fit_into_memory_are_foreseen(tmp_path: Path) -> None:
    words = r"no space left for 2,000,000,000,002 frames of \(2, 17, 9\) in .*: they take [\d.,]+ PB, and"
    with pytest.raises(ConfigError, match=words):
        make(tmp_path / "wake.h5", replace(WAKE, steps=10**12, discard=0))
    assert not list(tmp_path.iterdir())


ENSEMBLE = """
    import numpy as np
    from deepzero_sim.solver.contract import Solver
    from deepzero_sim.solver.spec import SolverSpec

    class Decay(Solver):
        def __init__(self, points=8, fails_above=1e9, parameters=()):
            self.spec = SolverSpec(
                name="decay", state_shape=(1, points), dt=0.25, dtype="float64", parameters=tuple(parameters)
            )
            self.fails_above = fails_above

        def step(self, states, params=None):
            if (states > self.fails_above).any():
                raise ValueError("too steep")
            return 0.9 * states

    def drawn(spec, params, seed):
        return np.random.default_rng(seed).normal(size=(1, *spec.state_shape))

    def optional(spec, params, strength=2.0):
        return np.full((1, *spec.state_shape), strength)

    def fixed(spec, params):
        return np.ones((1, *spec.state_shape))

    def broken(spec, params, seed):
        if seed % 2:
            raise KeyError("odd")
        return drawn(spec, params, seed)

    def restrict(states, spec):
        return states[:, :, ::2].copy()
"""


@pytest.fixture
def decay(tmp_path: Path) -> Path:
    (tmp_path / "decay.py").write_text(textwrap.dedent(ENSEMBLE))
    return tmp_path


def decaying(folder: Path, initial: str = "drawn", steps: int = 3, **args: object) -> Simulations:
    file = folder / "decay.py"
    fine, coarse = ({"points": points, **args} for points in (8, 4))
    return Simulations(
        Component(f"{file}:Decay", fine), Component(f"{file}:Decay", coarse), f"{file}:{initial}", f"{file}:restrict", steps, 0
    )


def make_ensemble(
    folder: Path, simulations: Simulations, params: list[list[float]], executor: Executor | None = None, **options: object
) -> tuple[trajectories.Trajectories, list[str]]:
    sentences: list[str] = []
    path = folder / f"{len(list(folder.glob('*.h5')))}.h5"
    executor = executor or SerialExecutor()
    assert generate(path, simulations, params, executor, lambda word: None, say=sentences.append, **options)  # type: ignore[arg-type]
    return trajectories.load(path), sentences


def test_an_ensemble_of_starts_needs_no_parameter(decay: Path, executors: dict[str, Executor]) -> None:
    data, said = make_ensemble(decay, decaying(decay), [], starts=20)
    assert data.frames.shape == (20, 4, 1, 4) and data.params.shape == (20, 0) and not said
    assert len(np.unique(data.frames[:, 0], axis=0)) == 20
    for executor in executors.values():
        again, _ = make_ensemble(decay, decaying(decay), [], executor, starts=20)
        assert np.array_equal(again.frames, data.frames)
    other, _ = make_ensemble(decay, decaying(decay), [], starts=20, seed=1)
    assert not set(other.frames[:, 0, 0, 0]) & set(data.frames[:, 0, 0, 0])  # no start of a training is one of a test
    more, _ = make_ensemble(decay, decaying(decay), [], starts=21)
    assert np.array_equal(more.frames[:20], data.frames)


def test_starts_are_made_for_each_row_of_parameters(decay: Path) -> None:
    data, said = make_ensemble(decay, decaying(decay, parameters=["rate"]), [[1.0], [2.0]], starts=3)
    assert data.params[:, 0].tolist() == [1, 1, 1, 2, 2, 2] and not said
    assert len(np.unique(data.frames[:, 0], axis=0)) == 6
    card = (decay / "0.md").read_text()
    assert "| simulation | rate | seed of the initial state |" in card and card.count("\n| ") > 6
    (settings,) = (json.loads(h5py.File(decay / "0.h5").attrs["settings"]),)
    assert settings["starts"] == 3 and settings["params"] == [[1.0], [2.0]]


@pytest.mark.parametrize("initial", ["fixed", "optional"])
def test_several_starts_of_a_function_without_a_seed_are_refused(decay: Path, initial: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"3 starts need initial states that differ, but .*{initial} takes no seed: write it"
    ):
        make_ensemble(decay, decaying(decay, initial), [], starts=3)
    assert not list(decay.glob("*.h5*"))
    data, _ = make_ensemble(decay, decaying(decay, "optional"), [[]])
    assert (data.frames[:, 0] == 2.0).all()  # no seed in place of what has a default


def test_identical_trajectories_are_said(decay: Path) -> None:
    _, said = make_ensemble(decay, decaying(decay, "fixed"), [[], [], []])
    assert said == [
        f"{decay / '0.h5'}: simulations 0, 1 and 2 are identical, and say no more than one of them: let "
        "initial(spec, params, seed) make another state of every seed, or give them other params."
    ]
    assert "\nSimulations 0, 1 and 2 are identical, and say no more than one of them" in (decay / "0.md").read_text()
    assert not make_ensemble(decay, decaying(decay), [[], [], []])[1]


def test_the_console_says_identical_trajectories_too(decay: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_data(GenerateSettings(decaying(decay, "fixed"), [DataFile(decay / "a.h5", [[], []])], Workers("serial", 1)))
    assert "simulations 0 and 1 are identical" in " ".join(capsys.readouterr().out.split())
    make_data(GenerateSettings(decaying(decay), [DataFile(decay / "b.h5", starts=4, seed=3)], Workers("serial", 1)))
    assert "identical" not in capsys.readouterr().out
    assert trajectories.load(decay / "b.h5").frames.shape[0] == 4


def test_nothing_that_is_asked_for_is_refused(decay: Path) -> None:
    with pytest.raises(ConfigError, match="give params at least one row, or a number of starts"):
        make_ensemble(decay, decaying(decay), [])
    with pytest.raises(ConfigError, match=r"needs 1 parameters \(rate\) for solver 'decay', but one has 0"):
        make_ensemble(decay, decaying(decay, parameters=["rate"]), [], starts=3)
    with pytest.raises(ConfigError, match=r"parameters of simulations must be finite numbers, not \[inf\]"):
        make_ensemble(decay, decaying(decay, parameters=["rate"]), [[float("inf")]])
    with pytest.raises(ConfigError, match="starts must be a positive number"):
        make_ensemble(decay, decaying(decay), [], starts=0)


@pytest.mark.parametrize("where", ["serial", "two processes"])
def test_a_failure_says_which_simulation_and_step(decay: Path, executors: dict[str, Executor], where: str) -> None:
    simulations = decaying(decay, "drawn", parameters=["rate"], fails_above=0.5)
    with pytest.raises(SolverError, match=r"too steep.*step 1.*simulation \d \(rate = \d\)") as error:
        make_ensemble(decay, simulations, [[float(i)] for i in range(5)], executors[where])
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match=r"broken raised KeyError: 'odd'; .* \(in simulation \d+\)\."):
        make_ensemble(decay, decaying(decay, "broken"), [], executors[where], starts=20)


def test_files_larger_than_memory_are_put_together_in_parts(decay: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = make_ensemble(decay, decaying(decay, steps=40), [], starts=3)
    monkeypatch.setattr(frames, "IN_MEMORY", 0)
    largest, read = [0], frames.LazyFrames.__getitem__

    def noted(self: frames.LazyFrames, key: object) -> Array:
        states = read(self, key)
        largest[0] = max(largest[0], states.nbytes)
        return states

    monkeypatch.setattr(frames.LazyFrames, "__getitem__", noted)
    monkeypatch.setattr(frames.blocks, "__defaults__", (100,))
    streamed, _ = make_ensemble(decay, decaying(decay, steps=40), [], starts=3)
    assert 0 < largest[0] <= 100
    assert streamed.on_disk and np.array_equal(np.asarray(streamed.frames), whole.frames)
    assert content(decay / "0.h5") == content(decay / "1.h5")
    assert not list(decay.glob("*.parts")) and not unfinished(decay)


def test_a_file_keeps_the_times_of_its_frames(decay: Path) -> None:
    data, _ = make_ensemble(decay, replace(decaying(decay), steps=9, discard=4), [], starts=2)
    assert data.times is not None and data.times.tolist() == [1.0, 1.25, 1.5, 1.75, 2.0, 2.25]


def test_a_disk_that_is_full_leaves_nothing(tmp_path: Path) -> None:
    """In a process of its own, whose files may have 20000 bytes."""
    script = tmp_path / "save.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import resource, signal, sys
            sys.path.insert(0, {str(Path(__file__).parents[2])!r})
            from pathlib import Path
            from training_cases import line_data
            path = Path({str(tmp_path / "a.h5")!r})
            line_data(path)
            before = path.read_bytes()
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            for frames in (40, 400, 4000):
                try:
                    line_data(path, 3, frames)
                except OSError as error:
                    assert "too large" in str(error), error
                else:
                    raise SystemExit("it was written")
                assert path.read_bytes() == before
            """
        )
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "save.py"]
