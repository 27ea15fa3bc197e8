#!/usr/bin/env python3
"""A Synapse that finds the servers that have a name of their own.

usage: synapse_with_names.py CONFIGURATION -m synapse.app.homeserver ARGUMENTS...

The tests have no DNS, and a Synapse knows no other way from a name to an address. CONFIGURATION
is that of one of our servers, whose list of servers is answered with instead of SRV records;
nobody has a /.well-known."""
import sys
import tomllib

from synapse.app.homeserver import main
from synapse.http.federation.srv_resolver import Server, SrvResolver
from synapse.http.federation.well_known_resolver import WellKnownLookupResult, WellKnownResolver


def places(path):
    with open(path, "rb") as file:
        servers = tomllib.load(file)["federation"]["servers"]
    return {server["name"]: server["address"].rsplit(":", 1) for server in servers}


PLACES = places(sys.argv.pop(1))


async def resolve_service(_self, service):
    host, port = PLACES.get(service.decode().split("._tcp.", 1)[1], (None, None))
    return [Server(host=host.encode(), port=int(port))] if host else []


async def get_well_known(_self, _name):
    return WellKnownLookupResult(delegated_server=None)


SrvResolver.resolve_service = resolve_service
WellKnownResolver.get_well_known = get_well_known
del sys.argv[1:3]
main()
