"""Which addresses a user's web hook may be at. Pure.

The daemon may be root, and the machine trusts itself: what listens on its loopback address, and a cloud's metadata
service, answer the daemon where they would not answer everybody. A laboratory's own network is allowed: its chat server
is there, and its users can reach that from their jobs.
"""

from __future__ import annotations

import ipaddress

_METADATA = frozenset(map(ipaddress.ip_address, ("100.100.100.200", "fd00:ec2::254", "fd20:ce::254", "168.63.129.16")))
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_THIS_HOST = ipaddress.ip_network("0.0.0.0/8")

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def refusal(text: str) -> str | None:
    """Why the address, as a resolver gives it, is not for a user's web hook; None when it is.

    >>> refusal("127.0.0.1"), refusal("::ffff:169.254.169.254"), refusal("10.1.2.3")
    ('it is of this machine', 'it is link-local', None)
    """
    try:
        address: _Address = ipaddress.ip_address(text)
    except ValueError:
        return "it is no address"
    for one in (address, *_inside(address)):
        if one.is_loopback or one.is_unspecified or (one.version == 4 and one in _THIS_HOST):
            return "it is of this machine"
        if one.is_link_local:
            return "it is link-local"
        if one.is_multicast or (one.version == 4 and one.is_reserved):
            return "it is of nobody in particular"
        if one in _METADATA:
            return "it is a cloud's own"
    return None


def _inside(address: _Address) -> tuple[_Address, ...]:
    """The IPv4 addresses that an IPv6 one stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return ()
    found = [address.ipv4_mapped, address.sixtofour]
    low = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _NAT64 or (int(address) >> 32 == 0 and int(address) > 1):
        found.append(low)
    return tuple(one for one in found if one is not None)
