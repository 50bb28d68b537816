"""C sources of this package: built once by the machine's compiler, kept in the user's cache, called with arrays."""

import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from isoflop.cache import cache_folder

# No -ffast-math: it would let a compiler add in an order of its own.
OPTIONS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
_KINDS = {
    "size_t": ctypes.c_size_t,
    "int": ctypes.c_int,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
}
_RESULTS = {"void": None, "uint32_t": ctypes.c_uint32, "int64_t": ctypes.c_int64, "double": ctypes.c_double}
_PROTOTYPE = re.compile(rf"^({'|'.join(_RESULTS)}) (\w+)\(([^)]*)\) \{{", re.MULTILINE)


class Compiled:
    """The functions of a C file as attributes. A call holds no lock of the interpreter: threads run side by side."""

    def __init__(self, library: Path, source: str, address: Callable[[Any], Any]) -> None:
        # Its name ends with a hash of source, compiler, options and processor: same name, same arithmetic.
        self.library = library
        loaded = ctypes.CDLL(str(library))
        for result, name, arguments in _PROTOTYPE.findall(source):
            function = getattr(loaded, name)
            function.restype = _RESULTS[result]
            function.argtypes = [_kind(argument) for argument in arguments.split(",")]
            setattr(self, name, functools.partial(_call, function, address))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        raise AttributeError(f"the C source has no function {name}")


def load_compiled(package: str, *names: str, address: Callable[[Any], Any] = lambda it: it) -> Compiled | None:
    """Files `name`.c of a package, one after the other as one, built if this machine has not built it yet.

    None without a C compiler that works. `address` makes of an argument what ctypes takes: the number of its place,
    bytes, None.
    """
    name = names[0]
    source = "".join((files(package) / f"{each}.c").read_text(encoding="utf-8") for each in names)
    for compiler in dict.fromkeys((os.environ.get("CC", ""), "cc", "gcc", "clang")):
        found = shutil.which(compiler) if compiler else None
        if found is None:
            continue
        for folder in (cache_folder(), Path(tempfile.gettempdir()) / f"isoflop-{os.getuid()}"):
            try:
                return Compiled(_built(found, name, source, folder), source, address)
            except (OSError, subprocess.SubprocessError):
                continue
    return None


def _built(compiler: str, name: str, source: str, folder: Path) -> Path:
    """The library for this source, compiler and processor; built beside its place and then moved there."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=60).stdout
    key = hashlib.sha256(b"\0".join([source.encode(), version, _processor(), " ".join(OPTIONS).encode()]))
    library = folder / f"{name}-{key.hexdigest()[:20]}.so"
    if not library.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as made:
            text, built = Path(made) / f"{name}.c", Path(made) / f"{name}.so"
            text.write_text(source, encoding="utf-8")
            command = [compiler, *OPTIONS, str(text), "-o", str(built), "-lm"]
            subprocess.run(command, capture_output=True, check=True, timeout=300)
            os.replace(built, library)
    return library


def _processor() -> bytes:
    """What `-march=native` depends on."""
    try:
        flags = re.search(r"^(flags|Features)\s*:.*$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        flags = None
    return (flags[0] if flags else platform.processor() or platform.machine()).encode()


def _kind(argument: str) -> Any:
    return ctypes.c_void_p if "*" in argument else _KINDS[argument.split()[-2]]


def _call(function: Any, address: Callable[[Any], Any], *arguments: Any) -> Any:
    return function(*map(address, arguments))
