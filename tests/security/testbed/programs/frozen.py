"""A file system with a dead server, like a dead NFS: `frozen.py FOLDER`. Every access hangs, and SIGKILL does not end
it, because the request was read and is never answered. It ends with this process.

FUSE by hand (linux/fuse.h, protocol 7.31): mount(2) with /dev/fuse, one answer to FUSE_INIT, and no other.
"""

import ctypes
import os
import struct
import sys

FOLDER = sys.argv[1]
INIT, MINOR = 26, 31

device = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(b"frozen", FOLDER.encode(), b"fuse", 0, options.encode()):
    sys.exit("mount: " + os.strerror(ctypes.get_errno()))
while True:
    request = os.read(device, 1 << 20)
    _, opcode, unique, _ = struct.unpack_from("<IIQQ", request)
    if opcode == INIT:
        said = struct.pack("<IIIIHHIIHHII", 7, MINOR, 65536, 0, 16, 12, 65536, 1, 32, 0, 0, 0).ljust(64, b"\0")
        os.write(device, struct.pack("<IiQ", 16 + len(said), 0, unique) + said)
        print("mounted", flush=True)
