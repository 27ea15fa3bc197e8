// End-to-end encryption between two homeservers: cross-signing, an encrypted room,
// verification by emoji, a device that comes later, a key backup that a new device restores, and a dehydrated
// device that is given keys while nobody is there.

import { login, must, north, run, south, until } from "./client.mjs";

/** Of a request to verify each other: both have agreed. */
const READY = 3;

/** Answers user-interactive authentication with the password. */
const authenticated = (client, password) => async (request) => {
    try {
        return await request(null);
    } catch (error) {
        const user = { type: "m.id.user", user: client.getUserId() };
        return request({ type: "m.login.password", identifier: user, password, session: error.data?.session });
    }
};

/** Alice and Bob compare emoji, and trust each other from then on. */
async function compared(alice, bob) {
    let asked;
    bob.on("crypto.verificationRequestReceived", (request) => (asked = request));
    const request = await alice.getCrypto().requestDeviceVerification(bob.getUserId(), bob.getDeviceId());
    await until("bob is asked", () => asked?.otherUserId === alice.getUserId());
    await asked.accept();
    await until("alice knows that he agrees", () => request.phase === READY);
    const mine = await request.startVerification("m.sas.v1");
    const his = await until("bob's side begins", () => asked.verifier);
    const ends = [mine.verify(), his.verify()];
    const seen = (verifier) => verifier.getShowSasCallbacks();
    await until("both are shown emoji", () => seen(mine) && seen(his));
    const emoji = ({ sas }) => JSON.stringify(sas.emoji);
    must("they are the same", seen(mine).sas.emoji.length === 7 && emoji(seen(mine)) === emoji(seen(his)));
    await Promise.all([seen(mine).confirm(), seen(his).confirm()]);
    await Promise.all(ends);
    for (const [one, other] of [[alice, bob], [bob, alice]])
        await until(`${one.getUserId()} trusts ${other.getUserId()}`, async () =>
            (await one.getCrypto().getUserVerificationStatus(other.getUserId())).isCrossSigningVerified());
}

/** Alice's dehydrated device is told what bob says, and a new device of hers opens it. */
async function dehydrated(alice, bob, room, reads) {
    must("the server has dehydrated devices", await alice.getCrypto().isDehydrationSupported());
    await alice.getCrypto().startDehydration();
    await until("bob learns of alice's dehydrated device", async () => {
        const devices = await bob.getCrypto().getUserDeviceInfo([alice.getUserId()]);
        return [...devices.get(alice.getUserId()).values()].some((device) => device.dehydrated);
    });
    const { event_id: said } = await bob.sendMessage(room, { msgtype: "m.text", body: "to whoever comes" });
    const desk = await login(north, { encrypted: true });
    for (const [id, key] of alice.openSecrets) desk.openSecrets.set(id, key);
    await until("the new device knows whose keys sign alice's devices", () =>
        desk.getCrypto().userHasCrossSigningKeys(alice.getUserId(), true));
    await desk.getCrypto().bootstrapCrossSigning({});
    let keys = 0;
    desk.on("dehydration.RehydrationProgress", (count) => (keys = count));
    for (const name of ["Started", "Progress", "Completed", "Error"])
        desk.on(`dehydration.Rehydration${name}`, (...told) => console.log(`told: ${name} ${told}`));
    await desk.getCrypto().startDehydration();
    await until("a new device was given keys by the dehydrated one", () => keys > 0);
    await until("it reads what was said meanwhile", () => reads(desk, said, "to whoever comes"));
}

await run(async () => {
    const alice = await login(north, { encrypted: true });
    const bob = await login(south, { encrypted: true });
    for (const [client, [, , password]] of [[alice, north], [bob, south]]) {
        const authUploadDeviceSigningKeys = authenticated(client, password);
        await client.getCrypto().bootstrapCrossSigning({ authUploadDeviceSigningKeys });
    }
    const key = await alice.getCrypto().createRecoveryKeyFromPassphrase();
    const createSecretStorageKey = async () => key;
    await alice.getCrypto().bootstrapSecretStorage({ createSecretStorageKey, setupNewKeyBackup: true });
    console.log("ok cross-signing and key backup are set up");

    const algorithm = { algorithm: "m.megolm.v1.aes-sha2" };
    const { room_id: room } = await alice.createRoom({
        preset: "private_chat",
        invite: [bob.getUserId()],
        initial_state: [{ type: "m.room.encryption", state_key: "", content: algorithm }],
    });
    await until("bob is invited", () => bob.getRoom(room)?.getMyMembership() === "invite");
    await bob.joinRoom(room);
    await until("alice sees bob", () => alice.getRoom(room)?.getMember(bob.getUserId())?.membership === "join");
    await until("bob has joined", () => bob.getRoom(room)?.getMyMembership() === "join");

    const reads = (client, id, body) => {
        const event = client.getRoom(room)?.findEventById(id);
        return event?.getWireType() === "m.room.encrypted" && event.getContent().body === body;
    };
    const first = await alice.sendMessage(room, { msgtype: "m.text", body: "from the north" });
    await until("bob decrypts", () => reads(bob, first.event_id, "from the north"));
    const second = await bob.sendMessage(room, { msgtype: "m.text", body: "from the south" });
    await until("alice decrypts", () => reads(alice, second.event_id, "from the south"));
    await until("alice sees that bob signs his devices", () =>
        alice.getCrypto().userHasCrossSigningKeys(bob.getUserId(), true));

    await compared(alice, bob);

    const tablet = await login(south, { encrypted: true });
    await until("alice learns of bob's other device", async () => {
        const devices = await alice.getCrypto().getUserDeviceInfo([bob.getUserId()]);
        return devices.get(bob.getUserId())?.has(tablet.getDeviceId());
    });
    const third = await alice.sendMessage(room, { msgtype: "m.text", body: "for both" });
    await until("bob's other device decrypts", () => reads(tablet, third.event_id, "for both"));

    await alice.getCrypto().checkKeyBackupAndEnable();
    const laptop = await login(north, { encrypted: true });
    const backup = await laptop.getCrypto().getKeyBackupInfo();
    const secret = await alice.getCrypto().getSessionBackupPrivateKey();
    await laptop.getCrypto().storeSessionBackupPrivateKey(secret, backup.version);
    // The other device uploads keys when it has nothing better to do.
    await until("the backup is restored", async () => {
        const { imported, total } = await laptop.getCrypto().restoreKeyBackup();
        return total >= 2 && imported === total;
    });
    await until("a new device reads what was said before it", () => reads(laptop, first.event_id, "from the north"));
    await dehydrated(alice, bob, room, reads);
});
