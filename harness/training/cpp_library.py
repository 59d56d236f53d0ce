"""Plain C++ compiled by torch's own builder: its compiler, flags and cache folder, without any of torch's headers."""

import ctypes
import hashlib
import tempfile
from pathlib import Path

import torch

# The parts of -ffast-math that let sums be taken lane by lane. Not -ffast-math itself, nor -funsafe-math-optimizations:
# linked into a library by gcc before 13, they make the whole process take small numbers for zero. torch turns
# vectorisation by loops off, since its own code has it written out.
_FLAGS = (
    "-fassociative-math",
    "-freciprocal-math",
    "-ffinite-math-only",
    "-fno-signed-zeros",
    "-fno-trapping-math",
    "-fno-math-errno",
    "-ffp-contract=fast",
    "-ftree-loop-vectorize",
    "-Wno-psabi",
)


def no_builder() -> str | None:
    """Say in one line that this torch cannot build C++ for others, or return None."""
    try:
        from torch._inductor.cpp_builder import CppBuilder, CppOptions  # noqa: F401
        from torch._inductor.runtime.cache_dir_utils import cache_dir  # noqa: F401
    except ImportError:
        return f"torch {torch.__version__} has no torch._inductor.cpp_builder to compile C++ with; 2.11 and newer have"
    return None


def compiled(source: str) -> ctypes.CDLL:
    """Compile C++ with -O3 for this machine, or take it from torch's compile cache, and load it.

    Raises torch's CppCompileError, with what the compiler says, where it does not compile.
    """
    from torch._inductor.cpp_builder import CppBuilder, CppOptions
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    options = CppOptions(extra_flags=_FLAGS, warning_all=False)
    command = CppBuilder(name="library", sources="source", BuildOption=options).get_command_line()
    key = hashlib.sha256(f"{command}\n{source}".encode()).hexdigest()[:32]
    cache = Path(cache_dir()) / "cpp_library"
    cache.mkdir(parents=True, exist_ok=True)
    library = cache / f"{key}.so"
    if not library.is_file():
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            file = Path(folder) / "source.cpp"
            file.write_text(source, "utf-8")
            builder = CppBuilder(name="library", sources=str(file), BuildOption=options, output_dir=folder)
            builder.build()
            # Whole or not at all, for whoever compiles the same at the same time.
            Path(builder.get_target_file_path()).replace(library)
    return ctypes.CDLL(str(library))
