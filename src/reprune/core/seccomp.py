"""What the kernel refuses a process from a moment on: network, programs, new files, other processes.

A filter of system calls (Linux's seccomp). It needs no privilege, and nothing takes it off again.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

_ALLOW, _REFUSE, _UNKNOWN, _KILL = (
    0x7FFF0000,
    0x00050000 | errno.EPERM,
    0x00050000 | errno.ENOSYS,
    0x80000000,
)
_LOAD, _EQUAL, _ANY_BIT, _AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_THREAD = 0x10000
_X32 = 0x40000000

# By machine: its name for the kernel, calls that are refused, calls that are said not to exist (the C
# library falls back to the older one), and where `open` calls have their flags.
# socket connect accept bind listen socketpair sendto sendmsg; execve execveat ptrace process_vm_* kill
# pidfd_send_signal fork vfork
_X86_PROCESSES = (
    41, 42, 43, 49, 50, 53, 44, 46, 59, 322, 101, 310, 311, 62, 424, 57, 58,
)  # fmt: skip
# rename mkdir rmdir creat link unlink symlink chmod chown truncate mknod, and their *at forms
_X86_FILES = (
    82, 83, 84, 85, 86, 87, 88, 90, 91, 92, 93, 94, 76, 133,
    258, 259, 260, 263, 264, 265, 266, 268, 316, 452,
)  # fmt: skip
# mount umount bpf unshare setns memfd_create io_uring userfaultfd modules keys
_X86_SYSTEM = (
    165, 166, 321, 272, 308, 319, 425, 426, 427, 323, 175, 313, 248, 249, 250,
)  # fmt: skip
_X86 = (
    0xC000003E,
    (*_X86_PROCESSES, *_X86_FILES, *_X86_SYSTEM),
    # openat2 clone3
    (437, 435),
    {2: 1, 257: 2},
    56,
)
# The same in the same order, by the numbers of that machine.
_ARM_PROCESSES = (
    198, 203, 202, 200, 201, 199, 206, 211, 221, 281, 117, 270, 271, 129, 424,
)  # fmt: skip
_ARM_FILES = (33, 34, 35, 36, 37, 38, 45, 52, 53, 54, 55, 276, 452)
_ARM_SYSTEM = (40, 39, 280, 97, 268, 279, 425, 426, 427, 282, 105, 273, 217, 218, 219)
_ARM = (0xC00000B7, (*_ARM_PROCESSES, *_ARM_FILES, *_ARM_SYSTEM), (437, 435), {56: 2}, 220)
_MACHINES = {"x86_64": _X86, "aarch64": _ARM}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def forbid() -> bool:
    """Whether from now on this process has no network, starts nothing, and opens no file for writing.

    Files that are open stay so. False, and nothing changed, where the system has no such filter.
    """
    known = _MACHINES.get(platform.machine()) if sys.platform == "linux" else None
    if known is None or sys.maxsize < 2**32:
        return False
    code = ctypes.create_string_buffer(b"".join(_filter(*known)))
    program = _Program(len(code) // 8, ctypes.addressof(code))
    control = ctypes.CDLL(None, use_errno=True).prctl
    control.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    if control(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        return False
    return not control(_SET_SECCOMP, _FILTER, ctypes.addressof(program), 0, 0)


def _filter(
    architecture: int,
    refused: tuple[int, ...],
    unknown: tuple[int, ...],
    opening: dict[int, int],
    clone: int,
) -> list[bytes]:
    code = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_EQUAL, architecture, 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER),
        _step(_AT_LEAST, _X32, 0, 1),
        _step(_RETURN, _REFUSE),
    ]
    for number, answer in [
        *((each, _REFUSE) for each in refused),
        *((each, _UNKNOWN) for each in unknown),
    ]:
        code += [_step(_EQUAL, number, 0, 1), _step(_RETURN, answer)]
    for number, argument in opening.items():
        code += _if_bits(number, argument, _WRITES, _REFUSE, _ALLOW)
    code += _if_bits(clone, 0, _THREAD, _ALLOW, _REFUSE)
    return [*code, _step(_RETURN, _ALLOW)]


def _if_bits(number: int, argument: int, bits: int, then: int, otherwise: int) -> list[bytes]:
    """For that call, one answer if any of the bits is set in its argument, and else another."""
    return [
        _step(_EQUAL, number, 0, 4),
        _step(_LOAD, _ARGUMENTS + 8 * argument),
        _step(_ANY_BIT, bits, 0, 1),
        _step(_RETURN, then),
        _step(_RETURN, otherwise),
    ]


def _step(what: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", what, yes, no, value)
