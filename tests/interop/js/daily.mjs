// What people do all day, between two homeservers: invites, messages, reactions,
// edits, replies, threads, receipts, typing, items, redactions, files, search, kicks and bans,
// an app that is opened again, by /sync and by simplified sliding sync.

import { login, must, north, restore, run, south, unsynced, until } from "./client.mjs";

/** What was said in a thread, from the server in pages of one, the latest first. */
async function readBack(client, room, root) {
    const read = [];
    for (let from; from !== null; ) {
        const page = await client.fetchRelations(room, root, "m.thread", null, { dir: "b", limit: 1, from });
        must("a page has no more than was asked for", page.chunk.length <= 1);
        read.push(...page.chunk.map((event) => event.content.body));
        from = page.next_batch ?? null;
    }
    return read.join();
}

/** Bob's app is closed and opened again, and goes on, with what was missed. */
async function reopened(alice, bob, room, root) {
    bob.stopClient();
    const { event_id: missed } = await alice.sendMessage(room, { msgtype: "m.text", body: "while bob was away" });
    let again = bob;
    for (const sliding of [false, true]) {
        const how = sliding ? "by sliding sync" : "by /sync";
        again = await restore(again, sliding);
        must("it is the same device", (await again.whoami()).device_id === bob.getDeviceId());
        await until(`bob reads what he missed, ${how}`, () => again.getRoom(room)?.findEventById(missed));
        must("the room is joined", again.getRoom(room).getMyMembership() === "join");
        must("alice is in it", again.getRoom(room).getMember(alice.getUserId())?.membership === "join");
        await until("he reads the thread back", async () =>
            (await readBack(again, room, root)) === "in the thread, too,in a thread");
        const { event_id: news } = await alice.sendMessage(room, { msgtype: "m.text", body: `news ${how}` });
        await until(`news come ${how}`, () => again.getRoom(room).findEventById(news)?.getContent().body === `news ${how}`);
        const { event_id: answer } = await again.sendMessage(room, { msgtype: "m.text", body: `answer ${how}` });
        await until("alice reads his answer", () => alice.getRoom(room).findEventById(answer));
        await alice.sendReceipt(alice.getRoom(room).findEventById(answer), "m.read");
        await until(`alice's receipt comes ${how}`, () => again.getRoom(room).hasUserReadEvent(alice.getUserId(), answer));
        await until(`alice's typing comes ${how}`, async () => {
            await alice.sendTyping(room, true, 30_000);
            return again.getRoom(room).getMember(alice.getUserId())?.typing;
        });
        await again.setAccountData("org.example.how", { how });
        await until(`account data comes ${how}`, () => again.getAccountData("org.example.how")?.getContent().how === how);
        const { room_id: other } = await alice.createRoom({ preset: "private_chat", invite: [bob.getUserId()] });
        await until(`an invite comes ${how}`, () => again.getRoom(other)?.getMyMembership() === "invite");
    }
    return again;
}

/** Bob is banned, can't come back, and can when he is forgiven. */
async function banned(alice, bob, room) {
    const is = (membership) => until(`bob's membership is ${membership}`, () =>
        bob.getRoom(room)?.getMyMembership() === membership);
    await alice.ban(room, bob.getUserId(), "for good");
    await is("ban");
    const viaServers = [alice.getDomain()];
    const refused = await bob.joinRoom(room, { viaServers }).then(() => false, (error) => error.httpStatus === 403);
    must("who is banned can't join", refused);
    await alice.unban(room, bob.getUserId());
    await alice.invite(room, bob.getUserId());
    await is("invite");
    await bob.joinRoom(room);
    await is("join");
}

await run(async () => {
    const [alice, bob] = [await login(north), await login(south)];
    const { room_id: room } = await alice.createRoom({ preset: "private_chat", invite: [bob.getUserId()] });
    await until("bob is invited", () => bob.getRoom(room)?.getMyMembership() === "invite");
    await bob.joinRoom(room);
    await until("bob has joined", () => bob.getRoom(room)?.getMyMembership() === "join");

    const { event_id: hello } = await alice.sendMessage(room, { msgtype: "m.text", body: "hello" });
    await until("bob reads a message", () => bob.getRoom(room).findEventById(hello));
    const reaction = { rel_type: "m.annotation", event_id: hello, key: "👍" };
    await bob.sendEvent(room, "m.reaction", { "m.relates_to": reaction });
    const reactions = () => alice.getRoom(room).relations.getChildEventsForEvent(hello, "m.annotation", "m.reaction");
    await until("alice sees the reaction", () => reactions()?.getRelations()?.length === 1);
    const edit = { "m.new_content": { msgtype: "m.text", body: "good day" } };
    const replaces = { "m.relates_to": { rel_type: "m.replace", event_id: hello } };
    await alice.sendMessage(room, { msgtype: "m.text", body: "* good day", ...edit, ...replaces });
    await until("bob sees the edit", () => bob.getRoom(room).findEventById(hello)?.replacingEvent());
    const inReply = { "m.relates_to": { "m.in_reply_to": { event_id: hello } } };
    const { event_id: reply } = await bob.sendMessage(room, { msgtype: "m.text", body: "to you, too", ...inReply });
    await until("alice sees what bob replies to", () => alice.getRoom(room).findEventById(reply)?.replyEventId === hello);
    await bob.sendReceipt(bob.getRoom(room).findEventById(hello), "m.read");
    await until("alice sees the receipt", () => alice.getRoom(room).hasUserReadEvent(bob.getUserId(), hello));
    await until("alice sees bob typing", async () => {
        await bob.sendTyping(room, true, 30_000);
        return alice.getRoom(room).getMember(bob.getUserId())?.typing;
    });

    // Of a message in a thread the library forgets that it sent it when /sync tells of it before
    // the answer to its sending comes: then it fails though all is well.
    await unsynced(alice, () =>
        alice.sendEvent(room, hello, "m.room.message", { msgtype: "m.text", body: "in a thread" }));
    await until("bob finds the thread", async () => {
        const threads = await bob.createThreadListMessagesRequest(room, null, 10, "b", "All");
        return threads.chunk.length === 1 && threads.chunk[0].unsigned["m.relations"]["m.thread"].count === 1;
    });
    await unsynced(bob, () =>
        bob.sendEvent(room, hello, "m.room.message", { msgtype: "m.text", body: "in the thread, too" }));
    await until("alice reads the thread back", async () =>
        (await readBack(alice, room, hello)) === "in the thread, too,in a thread");
    await alice.sendStateEvent(room, "org.causeway.item", { text: "one" }, "plans/monday");
    const item = () => bob.getRoom(room).currentState.getStateEvents("org.causeway.item", "plans/monday");
    await until("bob sees an item", () => item()?.getContent().text === "one");

    const { event_id: rare } = await bob.sendMessage(room, { msgtype: "m.text", body: "a zebra passes" });
    const found = async (term) => {
        const body = { search_categories: { room_events: { search_term: term } } };
        return (await alice.search({ body })).search_categories.room_events.results;
    };
    await until("alice finds a word", async () => (await found("zebra"))[0]?.result.event_id === rare);
    await until("the closest event to now is found", async () =>
        (await alice.timestampToEvent(room, Date.now() + 60_000, "b")).event_id === rare);
    await bob.redactEvent(room, rare);
    await until("alice sees the redaction", () => alice.getRoom(room).findEventById(rare)?.isRedacted());
    must("what is redacted is not found", (await found("zebra")).length === 0);

    const file = await alice.uploadContent(Buffer.from("some bytes"), { name: "x.txt", type: "text/plain" });
    const url = bob.mxcUrlToHttp(file.content_uri, undefined, undefined, undefined, undefined, undefined, true);
    const fetched = await fetch(url, { headers: { authorization: `Bearer ${bob.getAccessToken()}` } });
    must("bob gets alice's file", (await fetched.text()) === "some bytes");
    await alice.setDisplayName("Alice of the north");
    const name = () => bob.getRoom(room).getMember(alice.getUserId())?.rawDisplayName;
    await until("bob sees alice's new name", () => name() === "Alice of the north");
    const again = await reopened(alice, bob, room, hello);
    await banned(alice, again, room);
    await alice.kick(room, bob.getUserId(), "enough");
    await until("bob knows that he was kicked", () => again.getRoom(room)?.getMyMembership() === "leave");
});
