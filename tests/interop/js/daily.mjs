// What people do all day, between two homeservers: invites, messages, reactions,
// edits, threads, receipts, typing, items, redactions, files, search, kicks.

import { login, must, north, run, south, unsynced, until } from "./client.mjs";

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
    await alice.kick(room, bob.getUserId(), "enough");
    await until("bob knows that he was kicked", () => bob.getRoom(room)?.getMyMembership() === "leave");
});
