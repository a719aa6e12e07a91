"""Install the built wheel in a clean environment and import every package from there. Run by `make wheel`.

The editable install finds files that a wheel would omit; this finds out.
"""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

CHECK = """
import importlib, pkgutil, deepzero_sim
assert "site-packages" in deepzero_sim.__file__, deepzero_sim.__file__
names = [m.name for m in pkgutil.walk_packages(deepzero_sim.__path__, "deepzero_sim.")]
names.remove("deepzero_sim.oracle.difference.kernels._native")  # is loaded, not imported
extra = {"deepzero_sim.benchmarks.flows." + name for name in ("channel", "jax_solver", "mesh", "networks", "spectral")}
assert extra <= set(names), (extra, names)
for name in set(names) - extra:  # these import packages of the extra bench
    importlib.import_module(name)
apart = ("solvers.wake", "solvers.wake_phiflow", "datasets.trajectories", "benchmarks.cge")
for needed in (*apart, "estimators.cge", "models.corrector"):
    assert f"deepzero_sim.{needed}" in names, (needed, names)
from deepzero_sim.oracle.difference.kernels import native
assert native.library() is not None, "the kernels in C are missing"
print(f"the wheel holds {len(names)} modules, all of them import but the {len(extra)} of an extra")
"""


def main(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = f"{folder}/bin/python"
        install = [python, "-m", "pip", "install", "--quiet", "--no-compile", "--constraint", "constraints.txt", str(wheel)]
        subprocess.run(install, check=True, timeout=900)
        subprocess.run([python, "-c", CHECK], check=True, timeout=300, cwd=folder)
        subprocess.run([f"{folder}/bin/deepzero-sim", "--help"], check=True, timeout=60, cwd=folder, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
