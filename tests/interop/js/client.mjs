// What the scripts share: the unmodified matrix-js-sdk, logged-in clients, steps
// that are waited for, and the sentence for each that the test reads.
//
// Arguments of every script: the folder with node_modules, then for each of two
// people the homeserver's address, name and password.

import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, ...people] = process.argv.slice(2);

// The library is chatty, and what it says is not the test's business.
for (const level of ["debug", "info", "warn", "trace"]) console[level] = () => {};

const library = (file) => import(pathToFileURL(join(folder, "node_modules/matrix-js-sdk/lib", file)).href);
export const sdk = await library("index.js");
const { SlidingSync } = await library("sliding-sync.js");
sdk.logger?.setLevel?.("error");

/** [address, name, password] of each person. */
export const [north, south] = [people.slice(0, 3), people.slice(3, 6)];

/** What a client by sliding sync asks for: the rooms with the latest news, with their state. */
const ROOMS = { ranges: [[0, 20]], timeline_limit: 20, required_state: [["*", "*"]] };

/** Patience with one step, in ms: test machines can be slow. */
const PATIENCE = 60_000;

/** Polls until `holds` gives something true, which it returns. */
export async function until(what, holds) {
    const deadline = Date.now() + PATIENCE;
    for (;;) {
        let error;
        try {
            const value = await holds();
            if (value) {
                console.log(`ok ${what}`);
                return value;
            }
        } catch (caught) {
            error = caught;
        }
        if (Date.now() > deadline) throw new Error(`waited in vain: ${what}${error ? `: ${error.stack}` : ""}`);
        await new Promise((resolve) => setTimeout(resolve, 50));
    }
}

/** Fails unless `value` is true. */
export function must(what, value) {
    if (!value) throw new Error(`does not hold: ${what}`);
    console.log(`ok ${what}`);
}

/** Of each client, the promise that what /sync tells it waits for. */
const gates = new Map();

/** Does something of a client's that /sync tells it of only when it is done. */
export async function unsynced(client, work) {
    const gate = gates.get(client);
    let open;
    gate.opens = new Promise((resolve) => (open = resolve));
    try {
        return await work();
    } finally {
        open();
    }
}

/** A new device of a person, synced. `encrypted`: with the library's Rust cryptography. */
export async function login([baseUrl, user, password], { encrypted = false } = {}) {
    const session = await sdk.createClient({ baseUrl }).loginRequest({
        type: "m.login.password",
        identifier: { type: "m.id.user", user },
        password,
    });
    return begin({ baseUrl, ...kept(session) }, { encrypted });
}

/** What an app keeps of a login. */
const kept = ({ access_token: accessToken, user_id: userId, device_id: deviceId }) => ({ accessToken, userId, deviceId });

/** A client that was logged in before is opened again with nothing but its session, once it was closed. */
export async function restore(client, sliding) {
    client.stopClient();
    const session = { baseUrl: client.baseUrl, accessToken: client.getAccessToken() };
    return begin({ ...session, userId: client.getUserId(), deviceId: client.getDeviceId() }, { sliding });
}

/** A client of a session, synced. `sliding`: by simplified sliding sync. */
async function begin(session, { encrypted = false, sliding = false }) {
    const secrets = new Map();
    const gate = { opens: Promise.resolve() };
    const fetchFn = async (url, options) => {
        const answer = await fetch(url, options);
        if (new URL(url).pathname.endsWith("/sync")) await gate.opens;
        return answer;
    };
    const client = sdk.createClient({
        ...session,
        fetchFn,
        timelineSupport: true,
        cryptoCallbacks: {
            getSecretStorageKey: async ({ keys }) => {
                const id = Object.keys(keys).find((id) => secrets.has(id));
                return id ? [id, secrets.get(id)] : null;
            },
            cacheSecretStorageKey: (id, _info, key) => secrets.set(id, key),
        },
    });
    gates.set(client, gate);
    client.openSecrets = secrets;
    if (encrypted) await client.initRustCrypto({ useIndexedDB: false });
    const lists = new Map([["all", ROOMS]]);
    const slidingSync = sliding ? new SlidingSync(session.baseUrl, lists, ROOMS, client, 5000) : undefined;
    await client.startClient({ initialSyncLimit: 20, threadSupport: true, slidingSync });
    await until(`${session.userId} has synced`, () => client.isInitialSyncComplete());
    return client;
}

/** Runs a script to its end; the exit code says whether everything held. */
export async function run(script) {
    try {
        await script();
        process.exit(0);
    } catch (error) {
        console.log(`FAILED ${error.stack}`);
        process.exit(1);
    }
}
