#!/usr/bin/env python3
"""Synapse's own event authorisation and state resolution, on rooms from stdin.

Each line is a room: {"version": "10", "events": [PDU, ...]}, events after those
that they name. The answer is a line as well: {"events": [...]}, and for each
event its id, whether Synapse allows it by the rules that need no state
("independent"), by the events that it cites ("cited") and by the state before
it ("before"), and a digest of the state after it; with {"whole": true} that
state itself. What is refused by any of them is treated as rejected from there
on. "crashes" counts refusals by anything but an authorisation error."""
import hashlib
import json
import logging
import sys

from synapse.api.errors import SynapseError
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.event_auth import (
    auth_types_for_event,
    check_state_dependent_auth_rules,
    check_state_independent_auth_rules,
)
from synapse.events import make_event_from_dict
from synapse.state.v2 import resolve_events_with_store
from synapse.storage.databases.main.event_federation import StateDifference


def finish(coroutine):
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("it waits")


class Clock:
    async def sleep(self, duration):
        return


class Store:
    """What the resolver asks of Synapse's database, in memory."""

    def __init__(self):
        self.events = {}
        self.number = {}
        # As bits: the event and everything behind it by auth events.
        self.behind = {}

    def add(self, event):
        known = [i for i in event.auth_event_ids() if i in self.events]
        bits = 1 << len(self.number)
        self.number[event.event_id] = len(self.number)
        for auth_id in known:
            bits |= self.behind[auth_id]
        self.events[event.event_id] = event
        self.behind[event.event_id] = bits

    def ids(self, bits):
        return {i for i, n in self.number.items() if bits >> n & 1}

    async def get_events(self, event_ids, redact_behaviour=None, get_prev_content=False, allow_rejected=False):
        found = {i: self.events[i] for i in event_ids if i in self.events}
        return {i: e for i, e in found.items() if allow_rejected or e.rejected_reason is None}

    async def get_auth_chain_difference(self, room_id, state_sets, conflicted, additional):
        # As Synapse's chain index has it, a state's own events count as reached.
        chains = []
        for state in state_sets:
            chain = 0
            for event_id in state:
                chain |= self.behind[event_id]
            chains.append(chain)
        union, common = 0, -1
        for chain in chains:
            union |= chain
            common &= chain
        subgraph = None
        if conflicted is not None:
            wanted = 0
            for event_id in conflicted:
                wanted |= 1 << self.number[event_id]
            backwards = 0
            for event_id in conflicted:
                backwards |= self.behind[event_id]
            subgraph = {i for i in self.ids(backwards) if self.behind[i] & wanted}
        return StateDifference(self.ids(union & ~common), subgraph)


class Room:
    def __init__(self, version):
        self.version = KNOWN_ROOM_VERSIONS[version]
        self.store = Store()
        self.after = {}
        self.crashes = 0

    def allowed(self, check):
        try:
            check()
            return True
        except SynapseError:
            return False
        except Exception:
            self.crashes += 1
            return False

    def before(self, event):
        states = [self.after[i] for i in event.prev_event_ids()]
        if len(states) < 2:
            return states[0] if states else {}
        resolved = resolve_events_with_store(
            Clock(), event.room_id, self.version, states, None, self.store
        )
        return dict(finish(resolved))

    def judge(self, pdu, whole):
        event = make_event_from_dict(pdu, self.version)
        state = self.before(event)
        events = self.store.events
        verdict = {
            "id": event.event_id,
            "independent": self.allowed(
                lambda: finish(check_state_independent_auth_rules(self.store, event))
            ),
            "cited": self.allowed(
                lambda: check_state_dependent_auth_rules(
                    event, [events[i] for i in event.auth_event_ids()]
                )
            ),
            "before": self.allowed(
                lambda: check_state_dependent_auth_rules(
                    event,
                    [events[state[k]] for k in auth_types_for_event(self.version, event) if k in state],
                )
            ),
        }
        rejected = not (verdict["independent"] and verdict["cited"] and verdict["before"])
        if rejected:
            event = make_event_from_dict(pdu, self.version, rejected_reason="refused")
        self.store.add(event)
        if not rejected and event.is_state():
            state = {**state, (event.type, event.state_key): event.event_id}
        self.after[event.event_id] = state
        rows = sorted([*key, event_id] for key, event_id in state.items())
        text = "".join(f"{kind}\0{key}\0{event_id}\n" for kind, key, event_id in rows)
        verdict["state"] = hashlib.sha256(text.encode()).hexdigest()
        if whole:
            verdict["whole"] = rows
        return verdict


def main():
    logging.disable(logging.CRITICAL)
    for line in sys.stdin:
        asked = json.loads(line)
        room = Room(asked["version"])
        whole = asked.get("whole", False)
        answer = {"events": [room.judge(pdu, whole) for pdu in asked["events"]]}
        answer["crashes"] = room.crashes
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
