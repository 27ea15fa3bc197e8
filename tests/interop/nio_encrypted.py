#!/usr/bin/env python3
"""Unmodified matrix-nio clients on two servers, with end-to-end encryption.

usage: nio_encrypted.py URL_A NAME_A PASSWORD_A URL_B NAME_B PASSWORD_B

An encrypted room and messages both ways, verification by emoji, an encrypted file, a
second device that is given a key by the first, receipts, typing, a redaction, the end.
Prints one line per step. Exit code 0: everything held."""
import asyncio
import sys
import tempfile
import time

from nio import (
    AsyncClient,
    AsyncClientConfig,
    EnableEncryptionBuilder,
    KeyVerificationKey,
    KeyVerificationMac,
    KeyVerificationStart,
    LoginResponse,
    MegolmEvent,
    MemoryDownloadResponse,
    RoomCreateResponse,
    RoomEncryptedFile,
    RoomKeyRequest,
    RoomMessageText,
    RoomPreset,
    RoomSendError,
    RoomSendResponse,
    SyncResponse,
)
from nio.crypto.attachments import decrypt_attachment

PATIENCE_S = 90


def step(name, holds, got=None):
    print(("ok   " if holds else "FAIL ") + name + ("" if holds else f": {got!r}"[:800]), flush=True)
    if not holds:
        sys.exit(1)


class Person(AsyncClient):
    """A client that keeps its keys in order and remembers what it was shown."""

    @classmethod
    async def log_in(cls, folder, url, name, password, device):
        store = tempfile.mkdtemp(dir=folder)
        config = AsyncClientConfig(encryption_enabled=True, store_sync_tokens=True)
        client = cls(url, name, device_id=device, store_path=store, config=config)
        client.remember()
        answer = await client.login(password, device_name=device)
        step(f"{name} logs in with {device}", isinstance(answer, LoginResponse), answer)
        await client.turn()
        return client

    def remember(self):
        self.shown, self.to_device_shown = [], []
        self.add_event_callback(lambda room, event: self.shown.append((room.room_id, event)), None)
        self.add_to_device_callback(self.to_device_shown.append, None)

    async def turn(self, timeout=300):
        """One sync, and all that it asks for, as nio's own loop does it."""
        answer = await self.sync(timeout=timeout, full_state=not self.next_batch)
        if not isinstance(answer, SyncResponse):
            return
        await self.send_to_device_messages()
        if self.should_upload_keys:
            await self.keys_upload()
        if self.should_query_keys:
            await self.keys_query()
        if self.should_claim_keys:
            await self.keys_claim(self.get_users_for_key_claiming())

    def find(self, kind, pleases):
        return next((event for _, event in self.shown if isinstance(event, kind) and pleases(event)), None)

    def last_to_device(self, kind):
        return next((event for event in reversed(self.to_device_shown) if isinstance(event, kind)), None)


async def until(what, people, look):
    """All sync until look() gives something, which it returns."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        found = look()
        if found:
            step(what, True)
            return found
        for person in people:
            await person.turn()
    step(what, False, [[str(event) for _, event in person.shown[-5:]] for person in people])


async def say(client, room, text, ignore=True):
    content = {"msgtype": "m.text", "body": text}
    answer = await client.room_send(room, "m.room.message", content, ignore_unverified_devices=ignore)
    step(f"{client.user_id} says {text!r}", isinstance(answer, RoomSendResponse), answer)
    return answer.event_id


async def heard(client, others, text):
    def look():
        return client.find(RoomMessageText, lambda event: event.body == text and event.decrypted)

    return await until(f"{client.device_id} decrypts {text!r}", [client, *others], look)


async def meet(alice, bob):
    answer = await alice.room_create(
        preset=RoomPreset.private_chat,
        initial_state=[EnableEncryptionBuilder().as_dict()],
        invite=[bob.user_id],
    )
    step("alice makes an encrypted room", isinstance(answer, RoomCreateResponse), answer)
    room = answer.room_id
    await until("bob is invited", [bob], lambda: room in bob.invited_rooms)
    await bob.join(room)

    def inside():
        rooms = [person.rooms.get(room) for person in (alice, bob)]
        return all(one and one.encrypted and len(one.users) == 2 for one in rooms) and not any(
            one.invited_users for one in rooms
        )

    await until("both are in the room", [alice, bob], inside)
    return room


async def verify(alice, bob):
    """By emoji, begun by alice."""
    devices = alice.device_store[bob.user_id]
    await until("alice knows bob's device", [alice, bob], lambda: bob.device_id in devices)
    await until(
        "bob knows alice's device", [alice, bob], lambda: alice.device_id in bob.device_store[alice.user_id]
    )
    await alice.start_key_verification(devices[bob.device_id])
    start = await until("bob is asked to verify", [bob], lambda: bob.last_to_device(KeyVerificationStart))
    transaction = start.transaction_id
    await bob.accept_key_verification(transaction)
    both = [alice, bob]
    await until(
        "both have each other's key", both, lambda: all(one.last_to_device(KeyVerificationKey) for one in both)
    )
    # What bob's answer to alice's key waits for.
    await bob.send_to_device_messages()
    emoji = [one.key_verifications[transaction].get_emoji() for one in both]
    step("both see the same emoji", emoji[0] == emoji[1], emoji)
    for one in both:
        await one.confirm_short_auth_string(transaction)
    await until("both confirm", both, lambda: all(one.last_to_device(KeyVerificationMac) for one in both))
    verified = [devices[bob.device_id].verified, bob.device_store[alice.user_id][alice.device_id].verified]
    step("both trust each other's device", all(verified), verified)


async def share_file(alice, bob, room):
    secret = b"an encrypted file " * 1000
    uploaded, keys = await alice.upload(
        lambda *_: secret, "application/octet-stream", "secret.bin", encrypt=True, filesize=len(secret)
    )
    step("alice uploads an encrypted file", keys is not None, uploaded)
    content = {
        "msgtype": "m.file",
        "body": "secret.bin",
        "file": {"url": uploaded.content_uri, **{key: keys[key] for key in ("v", "key", "iv", "hashes")}},
    }
    await alice.room_send(room, "m.room.message", content)
    event = await until("bob is shown the file", [bob], lambda: bob.find(RoomEncryptedFile, lambda _: True))
    answer = await bob.download(event.url)
    step("bob fetches the file", isinstance(answer, MemoryDownloadResponse), answer)
    plain = decrypt_attachment(answer.body, event.key["k"], event.hashes["sha256"], event.iv)
    step("bob decrypts the file", plain == secret, len(plain))


async def second_device(alice, bob, tablet, room, old):
    """Bob's tablet asks his phone for the key of what was said before it was there."""
    everyone = [alice, bob, tablet]
    knows = lambda one, other: other.device_id in one.device_store[other.user_id]
    await until(
        "all know the tablet",
        everyone,
        lambda: knows(alice, tablet) and knows(bob, tablet) and knows(tablet, bob),
    )
    # Whoever was verified says what happens to new devices: without a word, nothing is sent.
    try:
        answer = await alice.room_send(room, "m.room.message", {"msgtype": "m.text", "body": "to whom?"})
        refused = isinstance(answer, RoomSendError)
    except Exception as error:  # nio's OlmUnverifiedDeviceError
        refused = "verified" in str(error)
    step("alice is told of the unverified tablet", refused)
    await say(alice, room, "for both devices")
    await heard(tablet, everyone, "for both devices")
    await heard(bob, everyone, "for both devices")

    answer = await tablet.room_messages(room, limit=50)
    closed = next(
        event for event in answer.chunk if isinstance(event, MegolmEvent) and event.event_id == old
    )
    tablet.verify_device(tablet.device_store[bob.user_id][bob.device_id])
    await tablet.request_room_key(closed)
    await until("the phone is asked for a key", everyone, lambda: bob.last_to_device(RoomKeyRequest))
    bob.verify_device(bob.device_store[bob.user_id][tablet.device_id])
    for request in bob.get_active_key_requests(bob.user_id, tablet.device_id):
        bob.continue_key_share(request)

    def opened():
        try:
            return tablet.decrypt_event(closed)
        except Exception:
            return None

    event = await until("the tablet was given the key", everyone, opened)
    step("it reads what was said before it was there", event.body == "from bob", event)


async def around(alice, bob, room, old):
    """What is beside messages."""
    await bob.room_read_markers(room, old, old)
    await until(
        "alice sees bob's receipt",
        [alice],
        lambda: alice.rooms[room].read_receipts.get(bob.user_id),
    )
    await bob.room_typing(room, True, 30_000)
    await until("alice sees bob typing", [alice], lambda: bob.user_id in alice.rooms[room].typing_users)
    await bob.room_typing(room, False)
    doomed = await say(bob, room, "a slip", ignore=True)
    await heard(alice, [bob], "a slip")
    await bob.room_redact(room, doomed, "oops")
    content = None
    end = time.monotonic() + PATIENCE_S
    while content != {} and time.monotonic() < end:
        await alice.turn()
        answer = await alice.room_get_event(room, doomed)
        content = answer.event.source["content"]
    step("alice sees the redaction", content == {}, content)
    await bob.room_leave(room)
    await until("alice sees bob leave", [alice], lambda: bob.user_id not in alice.rooms[room].users)


async def main():
    url_a, name_a, password_a, url_b, name_b, password_b = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        alice = await Person.log_in(folder, url_a, name_a, password_a, "ALICEPHONE")
        bob = await Person.log_in(folder, url_b, name_b, password_b, "BOBPHONE")
        people = [alice, bob]
        try:
            room = await meet(alice, bob)
            await say(alice, room, "from alice")
            await heard(bob, [alice], "from alice")
            old = await say(bob, room, "from bob")
            await heard(alice, [bob], "from bob")
            await verify(alice, bob)
            await say(alice, room, "among the verified", ignore=False)
            await heard(bob, [alice], "among the verified")
            await share_file(alice, bob, room)
            tablet = await Person.log_in(folder, url_b, name_b, password_b, "BOBTABLET")
            people.append(tablet)
            await second_device(alice, bob, tablet, room, old)
            await around(alice, bob, room, old)
            await tablet.logout()
        finally:
            for person in people:
                await person.close()


if __name__ == "__main__":
    asyncio.run(main())
