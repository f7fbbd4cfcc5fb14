"""Private names of libraries and state of the process: every use is listed here, with its reason."""

import ast
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

import kforecast

SOURCE = Path(kforecast.__file__).parents[1]
FILES = {
    str(path.relative_to(SOURCE)).removeprefix("kforecast/"): path
    for path in sorted([*SOURCE.rglob("kforecast/**/*.py"), *SOURCE.rglob("hydra_plugins/*.py")])
    if not path.stem.endswith(("_pb2", "_pb2_grpc"))  # generated
}
# Begin with an underscore, and are documented all the same.
DOCUMENTED = {"_asdict", "_replace", "_fields", "_make", "_field_defaults", "_exit", "_target_"}

pytestmark = pytest.mark.usefixtures("unmeasured")

# A use is "file: what", with its reason. A new use fails the test, and so does one that is gone.
IMPORTS: dict[str, str] = {}
ATTRIBUTES: dict[str, str] = {}
STATE = {
    # A command owns its process.
    "commands/run.py: signal.signal": "SIGTERM ends a command with its exit code",
    "commands/run.py: os.environ.setdefault": "OpenMP reads GOMP_SPINCOUNT when torch is loaded",
    "commands/run.py: warnings.filterwarnings": "matplotlib warns of each character that its font lacks",
    "commands/streams.py: os.dup2": "Python would complain of a closed pipe or a full disk again at exit",
    "training/run.py: seed_everything": "everything random of a training",
    "training/assemble.py: seed_everything": "everything random of a further training",
    "training/distributed/threads.py: torch.set_num_threads": "from_frame restores it",
    "training/distributed/threads.py: os.environ[_ALLOWED]": "Lightning reads it; such a process trains once",
    "training/lightning_warnings.py: logging.getLogger(name).setLevel": "quiet() restores it",
    "training/distributed/processes.py: ctypes.CDLL": "the kernel ends a process with its launcher",
    "pretraining/run.py: torch.manual_seed": "everything random of the pre-training, which owns its process",
    "pretraining/run.py: torch.set_num_threads": "threads of the pre-training",
    "serving/lean.py: torch.set_num_threads": "a resident server has few windows for a thread",
    "serving/lean.py: ctypes.CDLL": "mallopt and malloc_trim of glibc",
    # Restored by the context manager that sets it.
    "commands/run.py: sys.argv": "hydra.main reads its command line nowhere else",
    "commands/run.py: env_override": "Hydra reads HYDRA_FULL_ERROR and COMP_LINE",
    "commands/run.py: redirect_stderr": "warnings that another process has printed",
    "commands/run.py: redirect_stdout": "only the first process of a run prints",
    "commands/run.py: root.addHandler": "only the first process of a run prints",
    "commands/run.py: root.removeHandler": "only the first process of a run prints",
    "commands/run.py: warnings.showwarning": "only the first process of a run prints",
    "commands/check_first.py: env_override": "hydra.job.env_set, as Hydra applies it to a job",
    "commands/check_first.py: HydraConfig.instance().set_config": "checks see the configuration of their job",
    "commands/check_first.py: _running = ContextVar": "Hydra passes its callbacks only the configuration",
    "config/compose.py: HydraConfig.instance().set_config": "interpolations of the run's folder",
    "config/compose.py: Singleton.set_state": "saves and restores Hydra's state",
    "config/compose.py: instance.cfg": "restores HydraConfig as Hydra's run_job does",
    "config/compose.py: _one_at_a_time = threading.Lock": "Hydra's state is one for all threads",
    "console.py: logging.disable": "no_log_lines() restores it",
    "onnx_export.py: logger.setLevel": "the exporter's advice",
    "files/directory.py: signal.signal": "a folder is replaced as a whole before a signal is served",
    "training/resume/checkpoints.py: signal.signal": "a checkpoint is written before a signal is served",
    "training/resume/checkpoints.py: signal.setitimer": "the longest wait for that checkpoint",
    "training/background_errors.py: threading.excepthook": "writer_errors_once() restores it",
    "training/distributed/processes.py: env_override": "STARTED_BY, for the processes of a run",
    "replay/jobs.py: signal.signal": "a process of a simulation leaves Ctrl-C to the command",
    "replay/jobs.py: global _stop": "the event that ends it, which only the start of a process can hand over",
    "training/distributed/processes.py: signal.signal": "torch's launcher replaces handlers",
    # Set before a library is used.
    "config/legacy_cli.py: ConfigStore.instance().store": "the config file is an option of a config group",
    "training/resume/earlier_run.py: ConfigStore.instance().store": "an earlier run is a primary config",
    "files/directory.py: ctypes.CDLL": "renameat2",
    "training/trackers.py: os.environ.setdefault": "MLflow reads its variables when it is imported",
    "metrics/kapacity.py: os.environ.setdefault": "gRPC reads GRPC_VERBOSITY when it is imported",
    "training/sweeps/search.py: optuna.logging.set_verbosity": "Optuna's log is not for the console",
    # kforecast.train() restores these.
    "training/from_frame.py: os.environ.pop": "Lightning's seeds, for other trainings of the process",
    "training/from_frame.py: os.environ[name]": "Lightning's seeds, for other trainings of the process",
    "training/from_frame.py: torch.set_num_threads": "threads of the caller",
}


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in DOCUMENTED


def imports(name: str) -> Iterator[str]:
    """Private modules of libraries that are imported, and private names from their modules."""
    for _, module in imported(name):
        top, *parts = module.split(".")
        if top != "kforecast" and any(map(private, [top, *parts])):
            yield module


def defined(module: ast.Module) -> Iterator[str]:
    """All names that a module gives to something: functions, classes, variables, arguments, attributes."""
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id in ("self", "cls")
        ):
            yield node.attr


def imported(name: str) -> Iterator[tuple[str, str]]:
    """What a module imports: the name that it gives to it, and the dotted name."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            prefix = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            yield from (
                (alias.asname or alias.name.split(".")[0], prefix + alias.name) for alias in node.names
            )


@cache
def ours(name: str) -> frozenset[str]:
    """Names that a module of ours, or one that it imports, defines."""
    files = {name}
    for _, module in imported(name):
        path = module.removeprefix("kforecast.").replace(".", "/")
        files |= {f"{path}.py", f"{path.rpartition('/')[0]}.py"} & {*FILES}
    return frozenset(found for file in files for found in defined(tree(file)))


def attributes(name: str) -> Iterator[str]:
    """Private attributes that nothing of ours defines, by dot or by ``getattr`` and its like."""
    libraries = {given for given, module in imported(name) if module.split(".")[0] != "kforecast"}

    def foreign(owner: ast.expr, attribute: str) -> bool:
        of_library = isinstance(owner, ast.Name) and owner.id in libraries
        return private(attribute) and (of_library or attribute not in ours(name))

    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Attribute) and foreign(node.value, node.attr):
            yield ast.unparse(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in REACHES and len(node.args) > 1:
            owner, attribute = node.args[:2]
            if isinstance(attribute, ast.Constant) and foreign(owner, str(attribute.value)):
                yield f"{ast.unparse(owner)}.{attribute.value}"


REACHES = {"getattr", "setattr", "hasattr", "delattr"}
# Functions that change the process for all its modules, and what may be assigned to for the same effect.
SETTERS = {
    *("os.environ.setdefault", "os.environ.pop", "os.environ.update", "os.environ.clear", "os.putenv"),
    *("os.unsetenv", "os.chdir", "os.umask", "os.dup2", "env_override", "signal.signal", "signal.setitimer"),
    *("signal.alarm", "threading.setprofile", "threading.settrace", "sys.settrace", "sys.setrecursionlimit"),
    *("warnings.filterwarnings", "warnings.simplefilter", "warnings.resetwarnings", "logging.disable"),
    *("logging.basicConfig", "logging.captureWarnings", "logging.setLoggerClass", "faulthandler.enable"),
    *("redirect_stdout", "redirect_stderr", "locale.setlocale", "socket.setdefaulttimeout", "time.tzset"),
    *("torch.set_num_threads", "torch.set_num_interop_threads", "torch.set_default_dtype", "gc.freeze"),
    *("torch.set_default_device", "torch.use_deterministic_algorithms", "torch.manual_seed"),
    *("torch.set_float32_matmul_precision", "random.seed", "np.random.seed", "seed_everything"),
    *("multiprocessing.set_start_method", "atexit.register", "resource.setrlimit", "ctypes.CDLL"),
    *("OmegaConf.register_new_resolver", "OmegaConf.clear_resolver", "Singleton.set_state"),
    *("ConfigStore.instance().store", "HydraConfig.instance().set_config", "GlobalHydra.instance().clear"),
    *("matplotlib.use", "plt.rcParams.update", "optuna.logging.set_verbosity", "sys.path.insert"),
}
METHODS = ("setLevel", "addHandler", "removeHandler")
# Modules whose attributes belong to the whole process, and the one object of Hydra's that we assign to.
OWNERS = {"os", "sys", "signal", "threading", "warnings", "logging", "torch"}
ASSIGNED = {"instance.cfg"}
# What a module makes once for the process: locks, variables of a context, containers that start empty.
SINGLETONS = {
    *("threading.Lock", "threading.RLock", "threading.local", "Lock", "RLock", "ContextVar"),
    *("dict", "list", "set", "deque", "defaultdict", "Counter", "OrderedDict", "WeakKeyDictionary"),
}


def state(name: str) -> Iterator[str]:
    """Changes of what all modules of the process share: by a call, an assignment or ``global``."""
    restored = {id(node) for outer in ast.walk(tree(name)) if _restores(outer) for node in ast.walk(outer)}
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Global):
            yield from (f"global {variable}" for variable in node.names)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            filters = called.startswith("warnings.") and id(node) in restored
            if (called in SETTERS and not filters) or called.rpartition(".")[2] in METHODS:
                yield called
        elif isinstance(node, ast.Subscript | ast.Attribute) and not isinstance(node.ctx, ast.Load):
            changed = ast.unparse(node)
            if ast.unparse(node.value).split(".")[0] in OWNERS or changed in ASSIGNED:
                yield changed
    for node in tree(name).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = ast.unparse(node.target if isinstance(node, ast.AnnAssign) else node.targets[0])
            made = (
                ast.unparse(node.value.func) if isinstance(node.value, ast.Call) else ast.unparse(node.value)
            )
            if made in SINGLETONS | CLASSES | {"{}", "[]"}:
                yield f"{target} = {made}"


def _restores(node: ast.AST) -> bool:
    """Whether a block restores the filters of warnings behind it."""
    return isinstance(node, ast.With) and any(
        ast.unparse(item.context_expr).startswith("warnings.catch_warnings") for item in node.items
    )


CLASSES = {node.name for name in FILES for node in ast.walk(tree(name)) if isinstance(node, ast.ClassDef)}


def uses(find: Callable[[str], Iterator[str]]) -> set[str]:
    return {f"{name}: {found}" for name in FILES for found in find(name)}


@pytest.mark.parametrize(
    "find, listed",
    [(imports, IMPORTS), (attributes, ATTRIBUTES), (state, STATE)],
    ids=["imports", "attributes", "state"],
)
def test_every_use_is_listed(find: Callable[[str], Iterator[str]], listed: dict[str, str]) -> None:
    found = uses(find)
    assert found - {*listed} == set(), "new: find a public way, or list it with its reason"
    assert {*listed} - found == set(), "gone: take it off the list"


def test_the_reader_sees_each_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "made.py"
    path.write_text(
        """
import os, pickle, warnings
import hydra._internal.utils
from lightning.fabric import _logger
cache = {}
class One:
    def __init__(self, other):
        self._mine = other._theirs
        self._replace = other._mine, getattr(other, "_hidden", None), pickle._mine
        os._exit(1)
def change():
    global cache
    os.environ["A"] = "b"
    warnings.simplefilter("ignore")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore")
"""
    )
    monkeypatch.setitem(FILES, "made.py", path)
    tree.cache_clear()
    found = [{*find("made.py")} for find in (imports, attributes, state)]
    assert found == [
        {"hydra._internal.utils", "lightning.fabric._logger"},
        {"other._theirs", "other._hidden", "pickle._mine"},
        {"cache = {}", "global cache", "os.environ['A']", "warnings.simplefilter"},
    ]
