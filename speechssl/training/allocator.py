"""glibc's allocator, told to keep what training will ask for again in the next step."""

import ctypes
import logging
import platform

logger = logging.getLogger(__name__)

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Keep freed buffers in the process instead of returning them to the kernel; True when it took effect.

    By default glibc maps every buffer above some megabytes anew and gives it back when freed, so each training step
    pays page faults for all its activations. The price is that the process stays at its largest size. The call is
    for CPU training on Linux with glibc, lasts for the life of the process, and does nothing elsewhere.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    kept = bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
    if not kept:
        logger.debug("the allocator refused the setting; training goes on without it")
    return kept
