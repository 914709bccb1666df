"""What an operator should know of a server that more can reach than may be meant."""

from __future__ import annotations

import ipaddress

from pairlens_server.config import ServerSettings


def exposures(settings: ServerSettings) -> list[str]:
    """What is open to whoever reaches the port, a sentence each; empty where nothing is.

    Nothing of it is an error: a service mesh or a network policy may stand in front.
    """
    if _is_loopback(settings.listen):
        return []
    found = []
    if settings.tls_cert_file is None:
        what = "tokens and pictures travel" if settings.tokens_file else "pictures travel"
        found.append(f"{what} unencrypted to and from {settings.listen}: set tls_cert_file")
    if settings.tokens_file is None and settings.tls_client_ca_file is None:
        found.append(
            f"whoever reaches {settings.listen} may call everything, AdminService included: set "
            "tokens_file"
        )
    elif settings.tokens_file is None:
        found.append(
            "every client whose certificate tls_client_ca_file vouches for may call AdminService: "
            "set tokens_file"
        )
    return found


def _is_loopback(listen: str) -> bool:
    host = listen.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
