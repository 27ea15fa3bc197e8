// A small bridge on unmodified matrix-appservice-bridge: its ghosts come when they are
// invited, and say again what they are told; its rooms are there when somebody wants to
// join them.
//
// Arguments: the folder with node_modules, the homeserver's address and name.
//
// Prints one line per step. "url URL" says where it listens, "told TEXT" what it was told
// in a room, "ask WHAT" asks whoever started it to do something, which is answered by a
// line. Exit code 0: everything held.

const { join } = require("node:path");
const { createInterface } = require("node:readline/promises");
const Module = require("node:module");

const [folder, url, domain] = process.argv.slice(2);
const PATIENCE = 60_000;
const REGISTRATION = {
    id: "bridge",
    url: "http://127.0.0.1",
    as_token: "as-token",
    hs_token: "hs-token",
    sender_localpart: "bridge",
    rate_limited: false,
    protocols: ["echo"],
    "de.sorunome.msc2409.push_ephemeral": true,
    namespaces: {
        users: [{ regex: "@_ghost_.*", exclusive: true }],
        aliases: [{ regex: "#_echo_.*", exclusive: true }],
        rooms: [],
    },
};

// The half of the library's dependencies that encrypts is a binary that its installation
// fetches from GitHub; loading it is all that is left out here, and encryption with it.
const load = Module._load;
Module._load = (name, ...rest) => (name === "@matrix-org/matrix-sdk-crypto-nodejs" ? {} : load(name, ...rest));
process.removeAllListeners("warning");
const { AppService, AppServiceRegistration, Bridge, Logger } = require(
    join(folder, "node_modules/matrix-appservice-bridge"),
);
// What it says is not the test's business, unless something is wrong.
Logger.configure({ console: "error" });

function must(what, value, got) {
    if (!value) throw new Error(`does not hold: ${what}: ${JSON.stringify(got)}`);
    console.log(`ok ${what}`);
}

const input = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

async function ask(what) {
    console.log(`ask ${what}`);
    await input.next();
}

async function main() {
    const made = [];
    let typed;
    const typing = new Promise((resolve) => (typed = resolve));
    const ghost = `@_ghost_new:${domain}`;

    async function handle(event) {
        const { type, content, room_id: room, state_key: key, sender } = event;
        if (type === "m.room.member" && content.membership === "invite") {
            await bridge.getIntent(key).join(room);
        }
        if (type === "m.room.message" && sender !== ghost) {
            console.log(`told ${content.body}`);
            if (content.body === "echo") await bridge.getIntent(ghost).sendText(room, "echoed");
        }
    }

    const registration = AppServiceRegistration.fromObject(REGISTRATION);
    const bridge = new Bridge({
        homeserverUrl: url,
        domain,
        registration,
        disableStores: true,
        disableContext: true,
        queue: { type: "single", perRequest: true },
        controller: {
            // The next one comes when this one is done.
            onEvent: (request) => request.outcomeFrom(handle(request.getData())),
            onEphemeralEvent: (request) => request.getData().type === "m.typing" && typed(),
            onUserQuery: (user) => {
                made.push(user.getId());
                return { name: "A ghost" };
            },
            onAliasQuery: (_alias, localpart) => {
                made.push(localpart);
                return { creationOpts: { room_alias_name: localpart, preset: "public_chat", name: "Echoes" } };
            },
            onLog: (text, isError) => isError && console.error(text),
            thirdPartyLookup: {
                protocols: ["echo"],
                getProtocol: () => ({
                    user_fields: ["name"],
                    location_fields: ["name"],
                    icon: "mxc://example.org/echo",
                    field_types: { name: { regexp: ".+", placeholder: "name" } },
                    instances: [{ desc: "Echoes", network_id: "echo", fields: {}, icon: "" }],
                }),
            },
        },
    });
    const appService = new AppService({ homeserverToken: "hs-token" });
    await bridge.run(0, appService, "127.0.0.1");
    console.log(`url http://127.0.0.1:${appService.server.address().port}`);
    await ask("register");
    const me = await bridge.getBot().getClient().getWhoAmI();
    must("it is its bot", me.user_id === `@bridge:${domain}`, me);
    // Registers the name first, which it must not have either.
    const somebody = bridge.getIntent(`@alice:${domain}`).matrixClient;
    const refused = await somebody.getWhoAmI().catch((error) => error);
    must("it is nobody else", refused.statusCode === 403, refused.body ?? refused);
    await ask("look");
    must("a room was asked for", made.join() === "_echo_room", made);
    const room = await bridge.getIntent().resolveRoom(`#_echo_room:${domain}`);
    const took = await bridge.pingAppserviceRoute(room, PATIENCE);
    must("it is told what its bot says", took >= 0, took);
    await ask("invite");
    must("a ghost was asked for", made.at(-1) === ghost && made.length === 2, made);
    const { displayname } = await bridge.getIntent().getProfileInfo(ghost);
    must("the ghost has a name", displayname === "A ghost", displayname);
    await ask("type");
    await typing;
    must("it is told who types", true);
    // What follows is whoever's who started it.
    await ask("end");
    await bridge.close();
}

main().then(
    () => process.exit(0),
    (error) => {
        console.log(`FAIL ${error.stack}`);
        process.exit(1);
    },
);
