"""A job that is really on its cards, with nothing but the driver's own library: any machine with cards can run it.

    python cuda.py MEBIBYTES SECONDS [work|fault|fill]

It takes that much memory of each card that it may see, says `ready UUID ...`, and keeps it for that long. Meanwhile
`work` keeps the cards busy, `fault` writes where nothing is, and `fill` takes more until there is none. What the driver
refuses is said by its number, and is exit code 3.
"""

import ctypes
import sys
import time

MIB = 1 << 20

#: `busy` runs for so many clock ticks of the card; `fault` writes to address 0.
PTX = b"""
.version 6.0
.target sm_50
.address_size 64
.visible .entry busy(.param .u64 ticks)
{
    .reg .u64 %most, %begun, %now;
    .reg .pred %on;
    ld.param.u64 %most, [ticks];
    mov.u64 %begun, %clock64;
again:
    mov.u64 %now, %clock64;
    sub.u64 %now, %now, %begun;
    setp.lt.u64 %on, %now, %most;
    @%on bra again;
    ret;
}
.visible .entry fault()
{
    .reg .u64 %nowhere;
    .reg .u32 %value;
    mov.u64 %nowhere, 0;
    mov.u32 %value, 1;
    st.global.u32 [%nowhere], %value;
    ret;
}
"""

#: About a twentieth of a second of a card's clock, on many threads.
TICKS, BLOCKS, THREADS = 80_000_000, 256, 256

driver = ctypes.CDLL("libcuda.so.1")


class Refused(Exception):
    """The driver refused a call."""


def call(name: str, *arguments: object) -> None:
    """Call a function of the driver."""
    if code := getattr(driver, name)(*arguments):
        raise Refused(f"{name}: {code}")


class Card:
    """One that this process may see, with a context on it."""

    def __init__(self, place: int) -> None:
        device, self.context, module = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        call("cuDeviceGet", ctypes.byref(device), place)
        uuid = (ctypes.c_ubyte * 16)()
        call("cuDeviceGetUuid", ctypes.byref(uuid), device)
        digits = bytes(uuid).hex()
        self.uuid = "GPU-" + "-".join(
            digits[first:last] for first, last in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32))
        )
        call("cuDevicePrimaryCtxRetain", ctypes.byref(self.context), device)
        self.use()
        call("cuModuleLoadData", ctypes.byref(module), PTX)
        self.kernels: dict[str, ctypes.c_void_p] = {}
        for name in ("busy", "fault"):
            self.kernels[name] = ctypes.c_void_p()
            call("cuModuleGetFunction", ctypes.byref(self.kernels[name]), module, name.encode())

    def use(self) -> None:
        """Make it the one that calls are about."""
        call("cuCtxSetCurrent", self.context)

    def take(self, mebibytes: int) -> None:
        """Take so much of its memory."""
        self.use()
        place = ctypes.c_uint64()
        call("cuMemAlloc_v2", ctypes.byref(place), ctypes.c_size_t(mebibytes * MIB))

    def start(self, name: str) -> None:
        """Start a kernel on it."""
        self.use()
        ticks = ctypes.c_uint64(TICKS)
        values = (ctypes.c_void_p * 1)(ctypes.cast(ctypes.byref(ticks), ctypes.c_void_p))
        arguments = values if name == "busy" else None
        call("cuLaunchKernel", self.kernels[name], BLOCKS, 1, 1, THREADS, 1, 1, 0, None, arguments, None)

    def finish(self) -> None:
        """Wait until nothing runs on it."""
        self.use()
        call("cuCtxSynchronize")


def main(mebibytes: int, seconds: float, how: str) -> None:
    """Be on the cards."""
    count = ctypes.c_int()
    call("cuInit", 0)
    call("cuDeviceGetCount", ctypes.byref(count))
    cards = [Card(place) for place in range(count.value)]
    for card in cards:
        card.take(mebibytes)
    print("ready", *(card.uuid for card in cards), flush=True)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if how == "rest":
            time.sleep(0.05)
        for card in cards:
            if how == "fill":
                card.take(64)
            elif how in ("work", "fault"):
                card.start("busy" if how == "work" else "fault")
        for card in cards:
            card.finish()


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "rest")
    except Refused as refused:
        print("refused", refused, flush=True)
        sys.exit(3)
