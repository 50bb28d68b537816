"""model.safetensors: tensors to a file, with the system's own errors."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "model.safetensors"


def save_tensors(path: Path, tensors: Mapping[str, "Tensor"]) -> None:
    """Writes the tensors under their names, readable for whom the folder's other files are.

    Raises:
        OSError: the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    contiguous = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    try:
        save_file(contiguous, path, metadata={"format": "pt"})
    except SafetensorError as error:
        # It gives the system's error only as text; `write_folder` has a remedy for each.
        number = re.search(r"\(os error (\d+)\)", str(error))
        raise OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(0, str(error)) from error
    path.chmod(path.with_name("config.json").stat().st_mode)  # safetensors makes files that only their owner may read
