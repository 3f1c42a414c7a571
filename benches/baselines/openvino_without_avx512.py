"""A copy of the installed OpenVINO whose linear layers use AVX2 at most.

    python openvino_without_avx512.py DIR        then run with PYTHONPATH=DIR

Most of OpenVINO heeds OV_CPU_MAX_ISA and ONEDNN_MAX_CPU_ISA. Its linear layers in f32 are MLAS's, which asks the CPU
itself: on a CPU with AVX-512 they use it whatever the variables say. Here MLAS tests for no bit where it tests for
AVX-512F. It then stays at what it chose for AVX2 and FMA.
"""

import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

PLUGIN = "libs/libopenvino_intel_cpu_plugin.so"
# `test r9d, 1 << 16` (AVX512F in EBX of CPUID's leaf 7), a jump if it is not there, `not rdi` (what the system saves).
TEST = re.compile(rb"\x41\xf7\xc1\x00\x00\x01\x00(?=\x0f\x84....\x48\xf7\xd7)", re.DOTALL)
NO_BIT = b"\x41\xf7\xc1\x00\x00\x00\x00"


def copy_to(folder):
    """Makes the copy unless `folder` has one, and returns `folder`."""
    package = Path(folder, "openvino")
    if not package.is_dir():
        part = package.with_name("openvino.part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(Path(find_spec("openvino").origin).parent, part, symlinks=True)
        code, found = TEST.subn(NO_BIT, (part / PLUGIN).read_bytes())
        if found != 1:
            sys.exit(f"{PLUGIN} tests for AVX512F in {found} places like that of 2026.4.1, not in one: look where this version does")
        (part / PLUGIN).write_bytes(code)
        part.rename(package)
    return folder


if __name__ == "__main__":
    copy_to(sys.argv[1])
