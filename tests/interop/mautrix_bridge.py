#!/usr/bin/env python3
"""A small bridge on unmodified mautrix: its ghosts come when they are invited, and say
again what they are told.

usage: mautrix_bridge.py URL DOMAIN FOLDER

Prints one line per step. "url URL" says where it listens, "told TEXT" what it was told in
a room, "ask WHAT" asks whoever started it to do something, which is answered by a line.
Exit code 0: everything held."""
import asyncio
import os
import sys

from mautrix.appservice import AppService
from mautrix.errors import MForbidden
from mautrix.types import EventType, Membership, TypingEvent

PATIENCE_S = 60
TS = 1_234_567_890_123


def step(name, holds, got=None):
    print(("ok   " if holds else "FAIL ") + name + ("" if holds else f": {got!r}"[:400]), flush=True)
    if not holds:
        sys.exit(1)


async def ask(what):
    print(f"ask {what}", flush=True)
    return (await asyncio.to_thread(sys.stdin.readline)).strip()


async def bridge(url, domain):
    made, typed = [], asyncio.Event()

    async def query_user(user_id):
        await az.intent.user(user_id).ensure_registered()
        made.append(user_id)
        return {}

    az = AppService(
        server=url,
        domain=domain,
        as_token="as-token",
        hs_token="hs-token",
        bot_localpart="bridge",
        id="bridge",
        query_user=query_user,
        ephemeral_events=True,
    )

    # In the order in which it is told.
    az.synchronous_handlers = True

    @az.matrix_event_handler
    async def handle(event):
        if isinstance(event, TypingEvent):
            typed.set()
            return
        if event.type == EventType.ROOM_MEMBER and event.content.membership == Membership.INVITE:
            await az.intent.user(event.state_key).join_room(event.room_id)
        if event.type == EventType.ROOM_MESSAGE and not event.sender.startswith("@_ghost_"):
            print(f"told {event.content.body}", flush=True)
            if event.content.body == "echo":
                ghost = az.intent.user(f"@_ghost_new:{domain}")
                await ghost.send_text(event.room_id, "echoed", timestamp=TS)

    await az.start("127.0.0.1", 0)
    host, port = az.runner.addresses[0][:2]
    print(f"url http://{host}:{port}", flush=True)
    await ask("register")
    await az.ping_self(txn_id="ping")
    step("it is reached", True)
    me = await az.intent.whoami()
    step("it is its bot", me.user_id == f"@bridge:{domain}", me)
    try:
        await az.intent.user(f"@alice:{domain}").whoami()
        step("it is nobody else", False)
    except MForbidden as refused:
        step("it is nobody else", True, refused)
    await ask("invite")
    step("a ghost was asked for", made == [f"@_ghost_new:{domain}"], made)
    await ask("type")
    await asyncio.wait_for(typed.wait(), PATIENCE_S)
    step("it is told who types", True)
    # What follows is whoever's who started it.
    await ask("end")
    await az.stop()


if __name__ == "__main__":
    os.chdir(sys.argv[3])
    asyncio.run(bridge(sys.argv[1], sys.argv[2]))
