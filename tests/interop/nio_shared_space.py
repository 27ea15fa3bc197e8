#!/usr/bin/env python3
"""An unmodified matrix-nio client on each of two servers shares an item.

usage: nio_shared_space.py URL_A NAME_A PASSWORD_A URL_B NAME_B PASSWORD_B

Prints one line per step; "ask cut" and "ask heal" ask whoever started it to
throw the switch of the link between the servers, and are answered by a line.
Exit code 0: everything held."""
import asyncio
import sys
import time

from nio import (
    AsyncClient,
    InviteMemberEvent,
    JoinResponse,
    LoginResponse,
    RoomCreateResponse,
    RoomGetStateEventResponse,
    RoomPreset,
    RoomPutStateResponse,
    RoomSendResponse,
    SyncResponse,
)

ITEM = "org.causeway.item"
CONFLICT = "org.causeway.conflict"
KEY = "plans/party.md"
PATIENCE_S = 60


def step(name, holds, got=None):
    print(("ok   " if holds else "FAIL ") + name + ("" if holds else f": {got!r}"[:400]), flush=True)
    if not holds:
        sys.exit(1)


def ask(what):
    print(f"ask {what}", flush=True)
    sys.stdin.readline()


async def log_in(url, name, password):
    client = AsyncClient(url, name)
    answer = await client.login(password, device_name="nio")
    step(f"{name} logs in", isinstance(answer, LoginResponse), answer)
    answer = await client.sync(timeout=0, full_state=True)
    step(f"{name} syncs", isinstance(answer, SyncResponse), answer)
    return client


async def sync_until(client, what, look):
    """Syncs until look(room events of one answer) gives something."""
    end = time.monotonic() + PATIENCE_S
    answer = None
    while time.monotonic() < end:
        answer = await client.sync(timeout=1000)
        if isinstance(answer, SyncResponse):
            found = look(answer)
            if found is not None:
                step(what, True)
                return found
    step(what, False, answer)


def events_of(room, pleases):
    def look(answer):
        info = answer.rooms.join.get(room)
        for event in info.timeline.events if info else []:
            if pleases(event.source):
                return event.source
        return None

    return look


async def put(client, name, room, text):
    answer = await client.room_put_state(room, ITEM, {"text": text}, KEY)
    step(f"{name} writes {text!r}", isinstance(answer, RoomPutStateResponse), answer)


async def face(client, room):
    answer = await client.room_get_state_event(room, ITEM, KEY)
    return answer.content if isinstance(answer, RoomGetStateEventResponse) else {}


async def meet(alice, bob):
    answer = await alice.room_create(
        name="Party",
        preset=RoomPreset.private_chat,
        initial_state=[{"type": "org.causeway.shared_space", "state_key": "", "content": {}}],
        power_level_override={"events": {ITEM: 0}},
        invite=[bob.user_id],
    )
    step("alice makes a room and invites bob", isinstance(answer, RoomCreateResponse), answer)
    room = answer.room_id
    print(f"room {room}", flush=True)

    def invited(answer):
        info = answer.rooms.invite.get(room)
        mine = [e for e in info.invite_state if isinstance(e, InviteMemberEvent)] if info else []
        return True if mine else None

    await sync_until(bob, "bob sees the invite", invited)
    answer = await bob.join(room)
    step("bob joins over federation", isinstance(answer, JoinResponse), answer)
    return room


async def make_conflict(alice, bob, room):
    await put(alice, "alice", room, "cake")
    await sync_until(
        bob,
        "bob sees alice's item",
        events_of(room, lambda e: e["type"] == ITEM and e["content"].get("text") == "cake"),
    )
    await alice.sync(timeout=0)
    await bob.sync(timeout=0)
    ask("cut")
    await put(alice, "alice", room, "cake and tea")
    await put(bob, "bob", room, "cake and coffee")
    ask("heal")
    notices = []
    for client, name in ((alice, "alice"), (bob, "bob")):
        notice = await sync_until(
            client,
            f"{name} is told of the conflict",
            events_of(
                room,
                lambda e: e["type"] == "m.room.message"
                and e["content"].get("m.relates_to", {}).get("rel_type") != "m.replace"
                and e["content"].get(CONFLICT, {}).get("key") == KEY,
            ),
        )
        mentioned = notice["content"].get("m.mentions", {}).get("user_ids", [])
        step(f"{name} is mentioned", client.user_id in mentioned, notice)
        notices.append(notice)
    step("both see the same notice", notices[0]["event_id"] == notices[1]["event_id"], notices)
    return notices[1]


async def settle(alice, bob, room, notice):
    first = notice["content"][CONFLICT]["siblings"][0]["author"]
    winner = "cake and tea" if first == alice.user_id else "cake and coffee"
    relation = {"rel_type": "m.annotation", "event_id": notice["event_id"], "key": "1\ufe0f\u20e3"}
    answer = await bob.room_send(room, "m.reaction", {"m.relates_to": relation}, ignore_unverified_devices=True)
    step("bob reacts", isinstance(answer, RoomSendResponse), answer)
    for client, name in ((alice, "alice"), (bob, "bob")):
        end = time.monotonic() + PATIENCE_S
        content = {}
        while time.monotonic() < end:
            await client.sync(timeout=500)
            content = await face(client, room)
            if content.get("text") == winner and CONFLICT not in content:
                break
        step(f"{name} reads the settled item", content.get("text") == winner and CONFLICT not in content, content)


async def main():
    url_a, name_a, password_a, url_b, name_b, password_b = sys.argv[1:]
    alice = await log_in(url_a, name_a, password_a)
    bob = await log_in(url_b, name_b, password_b)
    try:
        room = await meet(alice, bob)
        notice = await make_conflict(alice, bob, room)
        await settle(alice, bob, room, notice)
    finally:
        await alice.close()
        await bob.close()


asyncio.run(main())
