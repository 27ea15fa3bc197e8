#!/usr/bin/env python3
"""Unmodified matrix-nio clients on two servers, and what people do daily beside talking.

usage: nio_daily.py URL_A NAME_A PASSWORD_A URL_B NAME_B PASSWORD_B

Aliases and the public list, threads, edits, reactions and replies read back, thumbnails,
push rules and unread counts, presence, kicks and bans, knocks, a space and a room for those
in it, an upgrade, a session that begins again from what was stored. What one does is looked
for at the other's server. Prints one line per step. Exit code 0: everything held."""
import asyncio
import struct
import sys
import tempfile
import zlib

from nio import (
    EnableEncryptionBuilder,
    MessageDirection,
    PushNotify,
    PushRuleKind,
    PushRulesEvent,
    PushSetTweak,
    RoomMessageText,
    RoomSendResponse,
    ThumbnailResponse,
    UploadResponse,
    WhoamiError,
)
from nio.api import RelationshipType
from nio_encrypted import Person, step, until
from nio_rooms import aliases, expect, join, kicks_and_bans, knocks, make, poll, spaces, upgrade


async def send(person, room, body, other=None, kind="m.room.message"):
    content = {"msgtype": "m.text", "body": body, **(other or {})} if body else other
    answer = await person.room_send(room, kind, content, ignore_unverified_devices=True)
    return expect(RoomSendResponse, f"{person.user_id} sends {body or kind!r}", answer).event_id


async def relations(alice, bob, room):
    """All are told apart and read back at the other's server."""
    root = await send(alice, room, "which roses?")
    people = [alice, bob]

    def shown(person, event_id):
        return until(
            f"{person.user_id} is shown it",
            people,
            lambda: person.find(RoomMessageText, lambda event: event.event_id == event_id),
        )

    await shown(bob, root)
    thread = {"rel_type": "m.thread", "event_id": root}
    for number in range(3):
        await send(bob, room, f"rose {number}", {"m.relates_to": thread})
    edit = {"m.new_content": {"msgtype": "m.text", "body": "which?"}}
    replaces = {"rel_type": "m.replace", "event_id": root}
    await send(alice, room, "* which?", {**edit, "m.relates_to": replaces})
    reaction = {"m.relates_to": {"rel_type": "m.annotation", "event_id": root, "key": "🌹"}}
    await send(bob, room, None, reaction, "m.reaction")
    reply = await send(bob, room, "these", {"m.relates_to": {"m.in_reply_to": {"event_id": root}}})
    seen = await shown(alice, reply)
    to = seen.source["content"]["m.relates_to"]["m.in_reply_to"]
    step("it says to what", to["event_id"] == root, to)

    async def related(person, kind, direction=MessageDirection.back):
        # Two at a time, so that it has to turn a page.
        events = person.room_get_event_relations(room, root, kind, direction=direction, limit=2)
        return [event.source["content"] async for event in events]

    for person in people:
        wanted = [f"rose {number}" for number in range(3)]

        async def whole_thread():
            forwards = await related(person, RelationshipType.thread, MessageDirection.front)
            backwards = await related(person, RelationshipType.thread)
            return [one["body"] for one in forwards] == wanted and forwards == backwards[::-1]

        async def listed():
            found = [event async for event in person.room_get_threads(room) if event.event_id == root]
            threads = [one.source["unsigned"]["m.relations"]["m.thread"] for one in found]
            told = [(one["count"], one["latest_event"]["content"]["body"]) for one in threads]
            return told == [(3, wanted[-1])]

        async def edited():
            edits = await related(person, RelationshipType.replacement)
            return [one["m.new_content"]["body"] for one in edits] == ["which?"]

        async def reacted():
            reactions = await related(person, RelationshipType.annotation)
            return [one["m.relates_to"]["key"] for one in reactions] == ["🌹"]

        questions = {"thread": whole_thread, "list of threads": listed, "edit": edited, "reaction": reacted}
        for what, ask in questions.items():
            await poll(f"{person.user_id} reads the {what} back", people, ask)


def picture(width, height):
    """A PNG of one colour."""

    def part(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress((b"\0" + b"\xc0\x20\x40" * width) * height)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", pixels) + part(b"IEND", b"")


def size_of(image):
    """The width and the height of a PNG or a JPEG."""
    if image.startswith(b"\x89PNG"):
        return struct.unpack(">II", image[16:24])
    at = 2
    while image[at + 1] not in (0xC0, 0xC1, 0xC2):
        at += 2 + struct.unpack(">H", image[at + 2 : at + 4])[0]
    return struct.unpack(">HH", image[at + 5 : at + 9])[::-1]


async def thumbnails(alice, bob):
    image = picture(640, 480)
    answer, _ = await alice.upload(lambda *_: image, "image/png", "rose.png", filesize=len(image))
    expect(UploadResponse, "alice uploads a picture", answer)
    server, media = answer.content_uri.removeprefix("mxc://").split("/")
    small = expect(ThumbnailResponse, "bob is given a thumbnail", await bob.thumbnail(server, media, 64, 48))
    size = size_of(small.body)
    step("it is smaller, and no smaller than asked for", 64 <= size[0] < 640, size)
    step("of the same shape", size[0] * 3 == size[1] * 4, size)


async def push_rules(alice, bob, room):
    rules = []
    bob.add_global_account_data_callback(rules.append, PushRulesEvent)

    def rule():
        known = rules[-1].global_rules.content if rules else []
        return next((one for one in known if one.id == "thorns"), None)

    actions = [PushNotify(), PushSetTweak("highlight", True)]
    await bob.set_pushrule("global", PushRuleKind.content, "thorns", actions=actions, pattern="thorns")
    await until("bob's rule comes to his client", [bob], lambda: rule() and rule().enabled)
    last = await send(alice, room, "mind the thorns")
    await until("it counts as a highlight", [alice, bob], lambda: bob.rooms[room].unread_highlights == 1)
    await bob.room_read_markers(room, last, last)
    await until("it is read", [bob], lambda: bob.rooms[room].unread_notifications == 0)
    await bob.enable_pushrule("global", PushRuleKind.content, "thorns", False)
    await until("bob's rule is off", [bob], lambda: rule() and not rule().enabled)
    await send(alice, room, "more thorns")
    await until("that one is counted", [alice, bob], lambda: bob.rooms[room].unread_notifications == 1)
    step("but is no highlight", bob.rooms[room].unread_highlights == 0)
    await bob.delete_pushrule("global", PushRuleKind.content, "thorns")
    await until("bob's rule is gone", [bob], lambda: not rule())


async def presence(alice, bob, room):
    await bob.set_presence("unavailable", "among the roses")

    def here():
        user = alice.rooms[room].users[bob.user_id]
        return user.presence, user.status_msg

    await until("alice sees bob's presence", [bob, alice], lambda: here() == ("unavailable", "among the roses"))
    answer = await alice.get_presence(bob.user_id)
    step("and is told it if she asks", (answer.presence, answer.status_msg) == here(), answer)


async def restore(alice, bob):
    """Bob's client ends, and begins again with his token and the folder with his keys."""
    encrypted = [EnableEncryptionBuilder().as_dict()]
    room, alias = await make(alice, "shed", initial_state=encrypted, invite=[bob.user_id])
    await until("bob is invited", [bob], lambda: room in bob.invited_rooms)
    await join(alice, bob, alias, room)

    def hears(who, text):
        return who.find(RoomMessageText, lambda event: event.body == text and event.decrypted)

    await send(alice, room, "before")
    await until("bob decrypts a message", [alice, bob], lambda: hears(bob, "before"))
    await bob.close()
    await send(alice, room, "meanwhile")
    stored = {"device_id": bob.device_id, "store_path": bob.store_path, "config": bob.config}
    again = Person(bob.homeserver, bob.user, **stored)
    again.remember()
    again.restore_login(bob.user_id, bob.device_id, bob.access_token)
    try:
        who = await again.whoami()
        step("it is the same session", (who.user_id, who.device_id) == (bob.user_id, bob.device_id), who)
        # By the key that came before: the sender's client gives it once.
        await until("it goes on where it was", [alice, again], lambda: hears(again, "meanwhile"))
        step("and is not shown again what was before", not hears(again, "before"))
        await send(again, room, "back")
        await until("alice decrypts what it says", [alice, again], lambda: hears(alice, "back"))
        await again.logout()
        again.restore_login(bob.user_id, bob.device_id, bob.access_token)
        expect(WhoamiError, "a session that has ended does not begin again", await again.whoami())
    finally:
        await again.close()


async def main():
    with tempfile.TemporaryDirectory() as folder:
        alice = await Person.log_in(folder, *sys.argv[1:4], "ALICEPHONE")
        bob = await Person.log_in(folder, *sys.argv[4:7], "BOBPHONE")
        try:
            room, alias = await aliases(alice, bob)
            await relations(alice, bob, room)
            await thumbnails(alice, bob)
            await push_rules(alice, bob, room)
            await presence(alice, bob, room)
            await kicks_and_bans(alice, bob, room, alias)
            await knocks(alice, bob)
            await spaces(alice, bob)
            await upgrade(alice, bob, room, alias)
            await restore(alice, bob)
        finally:
            for person in (alice, bob):
                await person.close()


asyncio.run(main())
