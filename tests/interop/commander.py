#!/usr/bin/env python3
"""An unmodified matrix-commander for each of two people on two servers.

usage: commander.py COMMANDER URL_A NAME_A PASSWORD_A URL_B NAME_B PASSWORD_B

Each step is a run of the program, as a script or a person at a terminal would have it:
logging in, making, entering, leaving rooms, encrypted messages, a reply, an edit, files, listening,
verification by emoji (with matrix-nio, which the program itself is made of, as the other
side), profiles, aliases, devices, keys, logging out. Prints one line per step. Exit code
0: everything held.

Left out, since the program fails at what it is answered by any server:
`--get-client-info` once it knows other devices (it writes tuples as the keys of JSON), and
`--has-permission` (it takes an answer of matrix-nio's that is a bool for an object)."""
import asyncio
import json
import os
import pty
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

PATIENCE_S = 90
# One run; it waits ten seconds for news by itself.
RUN_S = 120


def step(name, holds, got=None):
    print(("ok   " if holds else "FAIL ") + name + ("" if holds else f": {got!r}"[:1500]), flush=True)
    if not holds:
        sys.exit(1)


class Person:
    """Someone with a terminal, in a folder of their own."""

    def __init__(self, program, folder, url, name, password):
        self.program, self.url, self.name, self.password = program, url, name, password
        self.folder = os.path.join(folder, name)
        os.mkdir(self.folder)
        self.said = ""

    def command(self, *arguments):
        own = ["--credentials", "credentials.json", "--store", "store"]
        return [self.program, *own, *map(str, arguments)]

    def options(self, stdin):
        environment = {**os.environ, "HOME": self.folder, "COLUMNS": "200"}
        return {"cwd": self.folder, "env": environment, "stdin": stdin, "text": True}

    def try_run(self, *arguments):
        """One run with a terminal at which nobody types; whether it ended well."""
        keyboard, terminal = pty.openpty()
        try:
            run = subprocess.run(
                self.command(*arguments),
                **self.options(terminal),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=RUN_S,
            )
        finally:
            os.close(keyboard)
            os.close(terminal)
        self.said = run.stdout
        return run.returncode == 0

    def run(self, *arguments):
        """One run that has to end well; what it said."""
        step(f"{self.name}: {' '.join(map(str, arguments))[:100]}", self.try_run(*arguments), self.said)
        return self.said

    def run_until(self, what, look, *arguments):
        """Runs it again until what it says pleases."""
        end = time.monotonic() + PATIENCE_S
        said = []
        while time.monotonic() < end:
            if self.try_run(*arguments):
                found = look(self.said)
                if found:
                    step(what, True)
                    return found
            said.append(self.said[-400:])
        step(what, False, said[-3:])

    def log_in(self):
        self.id = self.whole_id()
        self.run(
            *("--login", "password", "--homeserver", self.url, "--user-login", self.id),
            *("--password", self.password, "--device", f"{self.name} at a terminal", "--room-default", "!none:nowhere"),
        )
        with open(os.path.join(self.folder, "credentials.json")) as file:
            credentials = json.load(file)
        step("it is the user whom it was given", credentials["user_id"] == self.id, credentials)
        self.device = credentials["device_id"]
        self.server = self.id.split(":", 1)[1]
        # Only a program that listens publishes its keys.
        self.run("--listen", "once")

    def ask(self, method, path, body=None, token=None):
        """A request that the program can't make."""
        content = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(f"{self.url}/_matrix/client/v3/{path}", content, headers, method=method)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def whole_id(self):
        """Of a name alone the program makes an id with the name of the host. And it fails at a list
        of devices of which one has no name, as that has with which the account was made."""
        identifier = {"type": "m.id.user", "user": self.name}
        body = {"type": "m.login.password", "identifier": identifier, "password": self.password}
        answer = self.ask("POST", "login", body)
        token = answer["access_token"]
        for device in self.ask("GET", "devices", token=token)["devices"]:
            name = {"display_name": device["display_name"] or "another device"}
            self.ask("PUT", f"devices/{device['device_id']}", name, token)
        return answer["user_id"]

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, content):
        with open(self.path(name), "wb") as file:
            file.write(content)
        return name

    def read(self, name):
        with open(self.path(name), "rb") as file:
            return file.read()


def meet(alice, bob):
    """The id of a room and the name that the program takes for it: ids without a server's name,
    which rooms of version 12 have, it does not know."""
    made = alice.run("--room-create", "garden", "--name", "The garden", "--topic", "Roses")
    found = re.search(r"![^\s\"',|]+", made)
    step("alice is told the room's id", found, made)
    room, alias = found.group(0), f"#garden:{alice.server}"
    alice.run("--room-invite", alias, "--user", bob.id)
    bob.run_until("bob is shown the invite", lambda said: room in said, "--room-invites", "list+join")
    bob.run_until("bob has joined it", lambda said: room in said, "--joined-rooms")
    alice.run_until("alice sees bob in it", lambda said: bob.id in said, "--joined-members", room)
    return room, alias


def talk(alice, bob, room, alias):
    """Encrypted, as every room that it makes: nobody's server knows the words."""
    alice.run("--room", alias, "--message", "from the north")
    bob.run_until("bob reads it", lambda said: "from the north" in said, "--listen", "once")
    bob.run("--room", alias, "--message", "**from the south**", "--markdown", "--notice")
    alice.run_until("alice reads it", lambda said: "from the south" in said, "--listen", "once")
    seen = alice.run("--room", room, "--listen", "tail", "--tail", "5", "--listen-self", "--output", "json-spec")
    step("both messages are in the room's tail", "from the north" in seen and "from the south" in seen, seen)

    bob.write("poem.txt", b"Roses are red\n" * 5_000)
    bob.run("--room", alias, "--file", "poem.txt")
    os.mkdir(alice.path("media"))

    def fetched(_said):
        return "poem.txt" in os.listdir(alice.path("media"))

    alice.run_until("alice gets the file", fetched, "--listen", "once", "--download-media", "media")
    step("it is as bob's", alice.read("media/poem.txt") == bob.read("poem.txt"))


def relate(alice, bob, alias):
    """A reply and an edit, as events from files: the program has no other way. It shows no reactions
    to whoever listens."""
    said = alice.run("--room", alias, "--message", "which roses?", "--print-event-id")
    root = re.search(r"\$[^\s\"',|]+", said)
    step("alice is told the message's id", root, said)
    root = root.group(0)
    bob.run_until("bob reads what she asks", lambda said: "which roses?" in said, "--listen", "once")

    def tell(person, other, content, relation):
        event = {"type": "m.room.message", "content": {**content, "m.relates_to": relation}}
        person.write("event.json", json.dumps(event).encode())
        person.run("--room", alias, "--event", "event.json")

        def seen(said):
            shown = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
            return any(one.get("content") == event["content"] for one in shown)

        listen = ("--listen", "once", "--output", "json-spec")
        other.run_until(f"{other.name} sees {list(relation)}", seen, *listen)

    text = lambda body: {"msgtype": "m.text", "body": body}
    tell(bob, alice, text("the red ones"), {"m.in_reply_to": {"event_id": root}})
    edit = {**text("* which?"), "m.new_content": text("which?")}
    tell(alice, bob, edit, {"rel_type": "m.replace", "event_id": root})


def files(alice, bob):
    alice.write("plain.bin", bytes(range(256)) * 100)
    said = alice.run("--upload", "plain.bin", "--plain")
    found = re.search(r"mxc://[^\s\"',|]+", said)
    step("alice is told the file's address", found, said)
    bob.run("--download", found.group(0), "--file-name", "copy.bin", "--plain")
    step("bob's copy is the same", bob.read("copy.bin") == alice.read("plain.bin"))


def look_around(alice, bob, room, alias):
    other = f"#roses:{alice.server}"
    alice.run("--room-set-alias", other, alias)
    found = bob.run("--room-resolve-alias", other)
    step("bob finds the alias", room in found, found)
    alice.run("--room-delete-alias", other)
    alice.run("--set-display-name", "Alice of the north")
    bob.run_until("bob sees alice's name", lambda said: "Alice of the north" in said, "--get-profile", alice.id)
    for person in (alice, bob):
        step("it knows who it is", person.id in person.run("--whoami"))
        step("it knows its device", person.device in person.run("--devices"))
    for question in ("--login-info", "--content-repository-config", "--get-display-name"):
        alice.run(question)
    alice.run("--room-get-visibility", alias)
    state = alice.run("--room-get-state", alias)
    step("the state is complete", "m.room.encryption" in state and "Roses" in state)
    alice.run("--get-room-info", alias)
    alice.run("--set-presence", "online")
    alice.run("--get-presence")
    token = alice.run("--get-openid-token", "--output", "json")
    step("alice has an OpenID token", "access_token" in token, token)
    doomed = alice.run("--room", alias, "--message", "a slip", "--print-event-id")
    event = re.search(r"\$[^\s\"',|]+", doomed)
    step("alice is told the event's id", event, doomed)
    alice.run("--room-redact", alias, event.group(0), "oops")
    alice.run("--export-keys", "keys.txt", "a passphrase")
    alice.run("--import-keys", "keys.txt", "a passphrase")


async def verify(alice, bob):
    """Bob, at a program of his own, verifies alice's terminal by emoji; she types Y."""
    from nio import AsyncClient, AsyncClientConfig, KeyVerificationKey, KeyVerificationMac, ToDeviceMessage

    os.mkdir(bob.path("nio"))
    config = AsyncClientConfig(encryption_enabled=True)
    client = AsyncClient(bob.url, bob.name, store_path=bob.path("nio"), config=config)
    seen = []
    client.add_to_device_callback(seen.append, None)
    await client.login(bob.password, device_name="bob's desk")
    keyboard, terminal = pty.openpty()
    typing = subprocess.Popen(
        alice.command("--verify", "emoji"),
        **alice.options(terminal),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said = ""
    os.set_blocking(typing.stdout.fileno(), False)

    def typed():
        try:
            return os.read(typing.stdout.fileno(), 1 << 16).decode(errors="replace")
        except BlockingIOError:
            return ""

    async def until(what, look):
        nonlocal said
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            await client.sync(timeout=300, full_state=not client.next_batch)
            await client.send_to_device_messages()
            if client.should_upload_keys:
                await client.keys_upload()
            if client.should_query_keys:
                await client.keys_query()
            said += typed()
            found = look()
            if found:
                step(what, True)
                return found
        step(what, False, said)

    def last(kind):
        return next((event for event in seen if isinstance(event, kind)), None)

    try:
        await until("alice waits for somebody to verify her", lambda: "ready and waiting" in said)
        await until("bob knows alice's device", lambda: alice.device in client.device_store[alice.id])
        device = client.device_store[alice.id][alice.device]

        # Her program may not know his new device yet, and then says nothing.
        async def begin():
            await client.start_key_verification(device)

        await begin()
        key = await until("alice gives her key", lambda: last(KeyVerificationKey))
        await until("alice is shown emoji", lambda: "Do the emojis match" in said)
        names = [name for _, name in client.key_verifications[key.transaction_id].get_emoji()]
        step("they are those that bob is shown", all(name in said for name in names), (names, said))
        os.write(keyboard, b"Y\n")
        await client.confirm_short_auth_string(key.transaction_id)
        await until("alice confirms", lambda: last(KeyVerificationMac))
        step("bob trusts alice's device", device.verified)
        done = {"transaction_id": key.transaction_id}
        await client.to_device(ToDeviceMessage("m.key.verification.done", alice.id, alice.device, done))
        is_done = lambda: any(event.source["type"] == "m.key.verification.done" for event in seen)
        await until("alice's program says that it is done, too", is_done)
    finally:
        typing.kill()
        typing.wait()
        os.close(keyboard)
        os.close(terminal)
        await client.logout()
        await client.close()


def part(alice, bob, room, alias):
    bob.run("--room-leave", alias)
    alice.run_until("alice sees bob leave", lambda said: bob.id not in said, "--joined-members", room)
    bob.run("--room-forget", alias)
    alice.run("--room-ban", alias, "--user", bob.id)
    step("a room that bans bob keeps him out", not bob.try_run("--room-join", alias), bob.said)
    alice.run("--room-unban", alias, "--user", bob.id)
    alice.run("--room-invite", alias, "--user", bob.id)
    bob.run_until("bob joins again", lambda _: True, "--room-join", alias)
    alice.run_until("alice sees bob again", lambda said: bob.id in said, "--joined-members", room)
    alice.run("--room-kick", alias, "--user", bob.id)
    bob.run_until("bob is out", lambda said: room not in said, "--joined-rooms")
    for person in (alice, bob):
        person.run("--logout", "me")
        step(f"{person.name}'s token has ended", not person.try_run("--joined-rooms"), person.said)


def main():
    program, *people = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        alice = Person(program, folder, *people[:3])
        bob = Person(program, folder, *people[3:])
        alice.log_in()
        bob.log_in()
        room, alias = meet(alice, bob)
        talk(alice, bob, room, alias)
        relate(alice, bob, alias)
        files(alice, bob)
        asyncio.run(verify(alice, bob))
        look_around(alice, bob, room, alias)
        part(alice, bob, room, alias)


main()
