//! What servers tell each other of people and rooms beside events: typing, receipts,
//! presence, profiles, aliases, the public list, and what is in a space.

use causeway_tests::{
    client::segment,
    result::{Result, ensure},
    user::{User, text},
    wait,
};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Mixed, Way, create, hears, in_room};

/// Syncs until something in an answer pleases.
async fn shown(user: &User, what: &str, pleases: impl Fn(&Value) -> bool) -> Result<()> {
    wait::until(
        &format!("{what} for {}", user.id),
        async || Ok(pleases(&user.sync(500).await?).then_some(())),
    )
    .await
}

/// Whether an answer's room has an ephemeral event of this kind whose content pleases.
fn ephemeral(sync: &Value, room: &str, kind: &str, pleases: impl Fn(&Value) -> bool) -> bool {
    let events = sync["rooms"]["join"][room]["ephemeral"]["events"].as_array();
    events.into_iter().flatten().any(|event| event["type"] == kind && pleases(&event["content"]))
}

#[tokio::test(flavor = "multi_thread")]
async fn typing_receipts_presence_and_profiles_reach_synapse_and_back() -> Result<()> {
    let mixed = Mixed::start().await?;
    let room = mixed.ways()[0].room(&json!({"preset": "public_chat"})).await?;
    for Way { maker: from, guest: to, .. } in mixed.ways() {
        let said = hears(to, from, &room, "read this").await?;
        let user = segment(&from.id).to_string();
        let typing = json!({"typing": true, "timeout": 30_000});
        in_room(from, Method::PUT, &room, &format!("typing/{user}"), &typing).await?;
        let types = |sync: &Value| {
            ephemeral(sync, &room, "m.typing", |content| {
                content["user_ids"].as_array().is_some_and(|ids| ids.contains(&json!(from.id)))
            })
        };
        shown(to, "typing", types).await?;
        in_room(from, Method::PUT, &room, &format!("typing/{user}"), &json!({"typing": false})).await?;
        shown(to, "the end of typing", |sync| {
            ephemeral(sync, &room, "m.typing", |content| content["user_ids"] == json!([]))
        })
        .await?;
        in_room(from, Method::POST, &room, &format!("receipt/m.read/{}", segment(&said)), &json!({})).await?;
        let has_read = |content: &Value| content[&said]["m.read"].get(&from.id).is_some();
        shown(to, "the receipt", |sync| ephemeral(sync, &room, "m.receipt", has_read)).await?;

        let presence = json!({"presence": "online", "status_msg": "at work"});
        let path = format!("/_matrix/client/v3/presence/{user}/status");
        from.call(Method::PUT, &path, Some(&presence)).await?;
        shown(to, "presence", |sync| {
            sync["presence"]["events"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|event| event["sender"] == *from.id && event["content"]["status_msg"] == "at work")
        })
        .await?;

        profile(from, to, &room).await?;
    }
    mixed.finish().await
}

/// One changes name and picture; the other asks for them and sees them in the room.
async fn profile(from: &User, to: &User, room: &str) -> Result<()> {
    let path = |field: &str| format!("/_matrix/client/v3/profile/{}{field}", segment(&from.id));
    let (name, picture) = (format!("{} the First", from.id), "mxc://example.org/picture");
    from.call(Method::PUT, &path("/displayname"), Some(&json!({"displayname": name}))).await?;
    from.call(Method::PUT, &path("/avatar_url"), Some(&json!({"avatar_url": picture}))).await?;
    let fields = [("displayname", name.as_str()), ("avatar_url", picture)];
    wait::until("the profile over federation", async || {
        let profile = to.call(Method::GET, &path(""), None).await?;
        Ok(fields.iter().all(|(field, value)| profile[field] == **value).then_some(()))
    })
    .await?;
    wait::until("the profile in the room", async || {
        let member = to.state(room, "m.room.member", &from.id).await?.unwrap_or_default();
        Ok(fields.iter().all(|(field, value)| member[field] == **value).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn aliases_public_rooms_and_spaces_are_found_at_synapse_and_here() -> Result<()> {
    let mixed = Mixed::start().await?;
    for Way { maker, guest, via, .. } in mixed.ways() {
        let body = json!({
            "preset": "public_chat", "visibility": "public", "room_alias_name": "garden",
            "name": "The garden", "topic": "Roses",
        });
        let room = create(maker, &body).await?;
        let alias = format!("#garden:{via}");
        let path = format!("/_matrix/client/v3/directory/room/{}", segment(&alias));
        let found = guest.call(Method::GET, &path, None).await?;
        ensure(found["room_id"] == *room, || format!("the alias leads to {found}"))?;

        let path = format!("/_matrix/client/v3/publicRooms?server={}", segment(via));
        for filter in [json!({}), json!({"generic_search_term": "ROSES"})] {
            let list = guest.call(Method::POST, &path, Some(&json!({"filter": filter}))).await?;
            let entry = list["chunk"].as_array().into_iter().flatten().find(|one| one["room_id"] == *room);
            let named =
                entry.is_some_and(|one| one["name"] == "The garden" && one["num_joined_members"] == 1);
            ensure(named, || format!("the public list is {list}"))?;
        }

        let path = format!("/_matrix/client/v3/join/{}", segment(&alias));
        let joined = guest.call(Method::POST, &path, Some(&json!({}))).await?;
        ensure(text(&joined, "room_id")? == room, || format!("joined {joined}"))?;
        hears(maker, guest, &room, "found").await?;
        hierarchy(maker, guest, &room, via).await?;
    }
    mixed.finish().await
}

/// A space with a room that the guest's server is in, one that it is not in, and one that
/// may not be shown to him.
async fn hierarchy(maker: &User, guest: &User, known: &str, via: &str) -> Result<()> {
    let space = json!({"preset": "public_chat", "name": "Space", "creation_content": {"type": "m.space"}});
    let space = create(maker, &space).await?;
    let unknown = create(maker, &json!({"preset": "public_chat", "name": "Unknown"})).await?;
    let secret = create(maker, &json!({"preset": "private_chat", "name": "Secret"})).await?;
    for child in [known, &unknown, &secret] {
        maker.put_state(&space, "m.space.child", child, &json!({"via": [via]})).await?;
    }
    guest.join(&space, via).await?;
    let path = format!("/_matrix/client/v1/rooms/{}/hierarchy", segment(&space));
    wait::until("what is in the space", async || {
        let answer = guest.call(Method::GET, &path, None).await?;
        let rooms = answer["rooms"].as_array().cloned().unwrap_or_default();
        let mut ids: Vec<&str> = rooms.iter().filter_map(|room| room["room_id"].as_str()).collect();
        let mut wanted = [space.as_str(), known, &unknown];
        ids.sort_unstable();
        wanted.sort_unstable();
        ensure(ids == wanted, || format!("the space has {answer}"))?;
        let children = rooms.iter().find(|room| room["room_id"] == *space);
        let children = children.and_then(|room| room["children_state"].as_array()).map_or(0, Vec::len);
        ensure(children == 3, || format!("the space names {children} rooms"))?;
        Ok(Some(()))
    })
    .await
}
