"""Whether torch.compile can work here: on a CPU it needs a C++ compiler."""

import logging
import os
import shutil


def has_compiler() -> bool:
    """True where $CXX, g++, clang++ or c++ is a program that can be found."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++") if name)


def quiet_compiler() -> None:
    """Silences what compiling for a CPU says about CUDA: nobody asked, and it breaks the progress lines."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
