// Finding rooms and what one keeps of them, between two homeservers: aliases, the public
// list, knocks, spaces with restricted rooms, upgrades, thumbnails, unread counts, receipts
// in threads and private ones, tags, account data, push rules, ignored users, presence.

import { login, must, north, run, south, until } from "./client.mjs";

/** A red square of 64 by 64. */
const PICTURE = Buffer.from(
    "iVBORw0KGgoAAAANSUhEUgAAAEAAAABACAIAAAAlC+aJAAAAS0lEQVR42u3PQQkAAAgAsetfWiP4FgYrsKZeS0BAQEBAQEBAQEBA" +
        "QEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEDgsqnc8OJg6Ln3AAAAAElFTkSuQmCC",
    "base64",
);

const membership = (client, room, user) => client.getRoom(room)?.getMember(user)?.membership;

async function found(alice, bob, via) {
    const named = { name: "The garden", topic: "Roses", room_alias_name: "garden" };
    const { room_id: room } = await alice.createRoom({ preset: "public_chat", visibility: "public", ...named });
    const alias = `#garden:${via}`;
    must("bob finds the alias", (await bob.getRoomIdForAlias(alias)).room_id === room);
    const list = await bob.publicRooms({ server: via, filter: { generic_search_term: "roses" } });
    must("bob finds it in the public list", list.chunk.some((one) => one.room_id === room));
    await bob.joinRoom(alias);
    await until("bob is in it", () => membership(bob, room, alice.getUserId()) === "join");
    return room;
}

async function knocked(alice, bob, via) {
    const rules = { type: "m.room.join_rules", state_key: "", content: { join_rule: "knock" } };
    const { room_id: room } = await alice.createRoom({ preset: "private_chat", initial_state: [rules] });
    await bob.knockRoom(room, { viaServers: [via], reason: "let me in" });
    await until("alice hears the knock", () => membership(alice, room, bob.getUserId()) === "knock");
    must("bob sees that he knocked", await until("bob's knock", () =>
        bob.getRoom(room)?.getMyMembership() === "knock"));
    await alice.invite(room, bob.getUserId());
    await until("bob is let in", () => bob.getRoom(room)?.getMyMembership() === "invite");
    await bob.joinRoom(room);
    await until("alice sees bob", () => membership(alice, room, bob.getUserId()) === "join");
}

async function spaced(alice, bob, via) {
    const { room_id: space } = await alice.createRoom({
        preset: "public_chat",
        name: "The house",
        creation_content: { type: "m.space" },
    });
    const allow = [{ type: "m.room_membership", room_id: space }];
    const rules = { type: "m.room.join_rules", state_key: "", content: { join_rule: "restricted", allow } };
    const { room_id: room } = await alice.createRoom({ name: "The kitchen", initial_state: [rules] });
    await alice.sendStateEvent(space, "m.space.child", { via: [via] }, room);
    const refused = await bob.joinRoom(room, { viaServers: [via] }).then(() => false, (error) => error.httpStatus >= 400);
    must("the kitchen is closed to who is not in the house", refused);
    await bob.joinRoom(space, { viaServers: [via] });
    await until("the house shows its kitchen to bob", async () => {
        const { rooms } = await bob.getRoomHierarchy(space, 20, 2);
        return rooms.some((one) => one.room_id === room && one.name === "The kitchen");
    });
    await until("bob is let into the kitchen", () => bob.joinRoom(room, { viaServers: [via] }));
    await until("alice sees bob in the kitchen", () => membership(alice, room, bob.getUserId()) === "join");
}

async function upgraded(alice, bob, via) {
    const { room_id: old } = await alice.createRoom({ preset: "public_chat", room_version: "10", name: "Of old" });
    await bob.joinRoom(old, { viaServers: [via] });
    await until("bob is in the old room", () => membership(bob, old, alice.getUserId()) === "join");
    const { replacement_room: room } = await alice.upgradeRoom(old, "12");
    const tombstone = () => bob.getRoom(old).currentState.getStateEvents("m.room.tombstone", "");
    await until("bob sees where it went", () => tombstone()?.getContent().replacement_room === room);
    await until("bob follows", () => bob.joinRoom(room, { viaServers: [via] }));
    await until("it has its name", () => bob.getRoom(room)?.name === "Of old");
}

async function counted(alice, bob, room) {
    const count = (kind) => bob.getRoom(room).getUnreadNotificationCount(kind);
    const { event_id: root } = await alice.sendMessage(room, { msgtype: "m.text", body: "a beginning" });
    const { event_id: last } = await alice.sendMessage(room, {
        msgtype: "m.text",
        body: "look, bob",
        "m.mentions": { user_ids: [bob.getUserId()] },
    });
    await until("two messages are unread", () => count("total") === 2);
    must("one speaks to bob", count("highlight") === 1);
    const relation = { rel_type: "m.thread", event_id: root, is_falling_back: true, "m.in_reply_to": { event_id: root } };
    const inThread = { msgtype: "m.text", body: "aside", "m.relates_to": relation };
    const { event_id: aside } = await bob.http.authedRequest(
        "PUT", `/rooms/${encodeURIComponent(room)}/send/m.room.message/aside`, undefined, inThread);
    const { event_id: answer } = await alice.http.authedRequest(
        "PUT", `/rooms/${encodeURIComponent(room)}/send/m.room.message/answer`, undefined, inThread);
    const threaded = () => bob.getRoom(room).getThreadUnreadNotificationCount(root, "total");
    await until("the thread counts apart", () => threaded() === 1 && aside !== answer);
    const receipt = (kind, event, thread) => bob.http.authedRequest(
        "POST",
        `/rooms/${encodeURIComponent(room)}/receipt/${kind}/${encodeURIComponent(event)}`,
        undefined,
        thread ? { thread_id: thread } : {},
    );
    await receipt("m.read.private", last, "main");
    await until("what is read in private is read", () => count("highlight") === 0);
    await receipt("m.read", answer, root);
    await until("the thread is read", () => threaded() === 0);
    await until("alice sees the receipt in the thread", () =>
        alice.getRoom(room).hasUserReadEvent(bob.getUserId(), answer));
    must("alice does not see the private one", alice.getRoom(room).getEventReadUpTo(bob.getUserId()) !== last);
    await bob.setRoomReadMarkers(room, last);
    await until("the marker is kept", () =>
        bob.getRoom(room).getAccountData("m.fully_read")?.getContent().event_id === last);
}

async function kept(alice, bob, room) {
    await bob.setRoomTag(room, "m.favourite", { order: 0.5 });
    await until("the tag is kept", () => bob.getRoom(room).tags["m.favourite"]?.order === 0.5);
    await bob.setRoomAccountData(room, "m.marked_unread", { unread: true });
    await until("the mark is kept", () => bob.getRoom(room).getAccountData("m.marked_unread")?.getContent().unread);
    await bob.setAccountData("org.example.wish", { wish: "rain" });
    await until("account data is kept", () => bob.getAccountData("org.example.wish")?.getContent().wish === "rain");
    await bob.setRoomMutePushRule("global", room, true);
    await until("the room is muted", async () => {
        const { global } = await bob.getPushRules();
        return [...(global.override ?? []), ...(global.room ?? [])].some((rule) => JSON.stringify(rule).includes(room));
    });
    await bob.setPusher({
        app_id: "org.example", app_display_name: "x", device_display_name: "y", kind: "http", lang: "en",
        pushkey: "key", data: { url: "https://push.example.org/_matrix/push/v1/notify" },
    });
    must("the pusher is kept", (await bob.getPushers()).pushers.some((pusher) => pusher.pushkey === "key"));
    await until("alice sees bob's presence", async () => {
        await bob.setPresence({ presence: "unavailable", status_msg: `in the garden ${Date.now()}` });
        return alice.getUser(bob.getUserId())?.presenceStatusMsg?.startsWith("in the garden");
    });
    await bob.setIgnoredUsers([alice.getUserId()]);
    await until("alice is ignored", () => bob.isUserIgnored(alice.getUserId()));
    const { event_id: unheard } = await alice.sendMessage(room, { msgtype: "m.text", body: "hello?" });
    const { event_id: own } = await bob.sendMessage(room, { msgtype: "m.text", body: "silence" });
    await until("bob goes on", () => bob.getRoom(room).findEventById(own) && alice.getRoom(room).findEventById(own));
    must("bob did not hear alice", !bob.getRoom(room).findEventById(unheard));
    await bob.setIgnoredUsers([]);
}

async function pictured(alice, bob) {
    const { content_uri: mxc } = await alice.uploadContent(PICTURE, { name: "red.png", type: "image/png" });
    const small = bob.mxcUrlToHttp(mxc, 32, 32, "crop", false, true, true);
    const answer = await fetch(small, { headers: { authorization: `Bearer ${bob.getAccessToken()}` } });
    must("bob gets a thumbnail of alice's picture", answer.ok && answer.headers.get("content-type").startsWith("image/"));
    must("it is not the picture itself", !Buffer.from(await answer.arrayBuffer()).equals(PICTURE));
}

await run(async () => {
    const [alice, bob] = [await login(north), await login(south)];
    const via = alice.getDomain();
    const room = await found(alice, bob, via);
    await knocked(alice, bob, via);
    await spaced(alice, bob, via);
    await upgraded(alice, bob, via);
    await pictured(alice, bob);
    await counted(alice, bob, room);
    await kept(alice, bob, room);
    await bob.leave(room);
    await until("alice sees bob leave", () => membership(alice, room, bob.getUserId()) === "leave");
    await bob.forget(room);
    must("bob has forgotten it", !bob.getRoom(room));
});
