"""Whether torch.compile can work here: on a CPU it needs a C++ compiler."""

import os
import shutil


def has_compiler() -> bool:
    """True where $CXX, g++, clang++ or c++ is a program that can be found."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++") if name)
