"""Which hosts are this machine and no other."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Is `host` a name or address of this machine that no other machine can reach?"""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
