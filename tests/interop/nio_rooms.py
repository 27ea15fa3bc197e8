"""What two people with matrix-nio do with rooms, for nio_daily.py.

What one of them does is looked for at the server of the other."""
import time

from nio import (
    JoinError,
    JoinResponse,
    RoomCreateResponse,
    RoomGetStateEventResponse,
    RoomPreset,
    RoomPutAliasResponse,
    RoomResolveAliasError,
    RoomResolveAliasResponse,
    RoomUpgradeEvent,
    RoomVisibility,
)
from nio.responses import RoomUpgradeResponse
from nio_encrypted import PATIENCE_S, step, until


async def poll(what, people, ask):
    """All sync until the answer to a question pleases, which it returns."""
    end = time.monotonic() + PATIENCE_S
    answer = None
    while time.monotonic() < end:
        answer = await ask()
        if answer:
            step(what, True)
            return answer
        for person in people:
            await person.turn()
    step(what, False, answer)


def expect(kind, what, answer):
    step(what, isinstance(answer, kind), answer)
    return answer


async def make(person, alias, **options):
    """A room of this person's; its id and whole alias."""
    answer = expect(RoomCreateResponse, f"{alias} is made", await person.room_create(alias=alias, **options))
    return answer.room_id, f"#{alias}:{person.user_id.split(':', 1)[1]}"


def inside(alice, bob, room):
    return room in alice.rooms and bob.user_id in alice.rooms[room].users


async def join(alice, bob, alias, room):
    expect(JoinResponse, f"bob joins {alias}", await bob.join(alias))
    await until("alice sees bob in it", [alice, bob], lambda: inside(alice, bob, room) and room in bob.rooms)


async def is_a(person, room, other, wanted):
    """Whether the other's membership is that one, as this person is told it."""
    answer = await person.room_get_state_event(room, "m.room.member", other.user_id)
    return isinstance(answer, RoomGetStateEventResponse) and answer.content.get("membership") == wanted


async def aliases(alice, bob):
    options = {"name": "Roses", "visibility": RoomVisibility.public, "preset": RoomPreset.public_chat}
    room, alias = await make(alice, "roses", room_version="10", **options)
    server = alias.split(":", 1)[1]

    async def listed(words):
        answer = await bob.list_public_rooms(server=server, filter_generic_search_term=words)
        return [one for one in answer.public_rooms if one.room_id == room]

    found = await poll("bob finds it in the list of alice's server", [], lambda: listed("Roses"))
    step("by its name and alias", (found[0].name, found[0].canonical_alias) == ("Roses", alias), found)
    step("and not by other words", not await listed("tulips"))
    other = alias.replace("roses", "briars")
    expect(RoomPutAliasResponse, "alice gives it another alias", await alice.room_put_alias(other, room))
    answer = expect(RoomResolveAliasResponse, "bob asks for that", await bob.room_resolve_alias(other))
    step("it is the same room", answer.room_id == room, answer)
    await alice.room_delete_alias(other)
    expect(RoomResolveAliasError, "it is gone for bob", await bob.room_resolve_alias(other))
    await join(alice, bob, alias, room)
    return room, alias


async def kicks_and_bans(alice, bob, room, alias):
    async def bob_is_out():
        return room not in (await bob.joined_rooms()).rooms

    await alice.room_kick(room, bob.user_id, "mud")
    await poll("bob is kicked", [bob], bob_is_out)
    await join(alice, bob, alias, room)
    await alice.room_ban(room, bob.user_id, "more mud")
    await poll("bob is banned", [bob], bob_is_out)
    answer = expect(JoinError, "he does not come in", await bob.join(alias))
    step("for that he may not", answer.status_code == "M_FORBIDDEN", answer)
    await alice.room_unban(room, bob.user_id)
    await poll("he is banned no longer", [alice], lambda: is_a(alice, room, bob, "leave"))
    await join(alice, bob, alias, room)


async def knocks(alice, bob):
    room, alias = await make(alice, "arbour")
    await alice.room_enable_knocking(room)
    expect(JoinError, "bob may not just come in", await bob.join(alias))
    await bob.room_knock(alias, "please")
    await poll("alice sees that bob knocks", [alice], lambda: is_a(alice, room, bob, "knock"))
    await alice.room_invite(room, bob.user_id)
    await until("bob is invited", [bob], lambda: room in bob.invited_rooms)
    await join(alice, bob, alias, room)


async def spaces(alice, bob):
    space, space_alias = await make(alice, "park", space=True, preset=RoomPreset.public_chat)
    rule = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": space}]}
    state = [{"type": "m.room.join_rules", "state_key": "", "content": rule}]
    room, alias = await make(alice, "pond", name="The pond", initial_state=state)
    await alice.room_put_state(space, "m.space.child", {"via": [alias.split(":", 1)[1]]}, room)
    expect(JoinError, "the room is not for who is not in the space", await bob.join(alias))
    await join(alice, bob, space_alias, space)

    async def children():
        return [one for one in (await bob.space_get_hierarchy(space)).rooms if one["room_id"] == room]

    found = await poll("bob sees the room in the space", [bob], children)
    step("by its name", found[0]["name"] == "The pond", found)
    await join(alice, bob, alias, room)


async def upgrade(alice, bob, room, alias):
    answer = await alice.room_upgrade(room, "11")
    new = expect(RoomUpgradeResponse, "alice upgrades the room", answer).room_id
    tomb = await until("bob is told", [bob], lambda: bob.find(RoomUpgradeEvent, lambda _: True))
    step("by what it is replaced", tomb.replacement_room == new, tomb)

    async def leads_there():
        answer = await bob.room_resolve_alias(alias)
        return isinstance(answer, RoomResolveAliasResponse) and answer.room_id == new

    await poll("the alias leads bob to the new room", [], leads_there)
    await join(alice, bob, alias, new)
    await until("it has the old one's name", [bob], lambda: bob.rooms[new].name == "Roses")
    made = (await bob.room_get_state_event(new, "m.room.create")).content
    step("it is of the new version", made["room_version"] == "11", made)
    step("and says whence it comes", made["predecessor"]["room_id"] == room, made)
