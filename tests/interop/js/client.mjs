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

const library = join(folder, "node_modules/matrix-js-sdk/lib/index.js");
export const sdk = await import(pathToFileURL(library).href);
sdk.logger?.setLevel?.("error");

/** [address, name, password] of each person. */
export const [north, south] = [people.slice(0, 3), people.slice(3, 6)];

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
    const secrets = new Map();
    const gate = { opens: Promise.resolve() };
    const fetchFn = async (url, options) => {
        const answer = await fetch(url, options);
        if (new URL(url).pathname.endsWith("/sync")) await gate.opens;
        return answer;
    };
    const client = sdk.createClient({
        baseUrl,
        fetchFn,
        accessToken: session.access_token,
        userId: session.user_id,
        deviceId: session.device_id,
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
    await client.startClient({ initialSyncLimit: 20, threadSupport: true });
    await until(`${user} has synced`, () => client.isInitialSyncComplete());
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
