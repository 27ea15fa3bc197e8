//! A device whose client keeps a list of rooms and shows their timelines: the way
//! of Element X, by simplified sliding sync (MSC4186).

use std::{pin::pin, time::Duration};

use futures_util::StreamExt as _;
use matrix_sdk::{
    Client, Room,
    ruma::{OwnedRoomId, OwnedUserId, RoomId},
    sliding_sync::VersionBuilder,
};
use matrix_sdk_ui::{
    eyeball_im::VectorDiff,
    room_list_service::filters::new_filter_non_left,
    sync_service::SyncService,
    timeline::{EventTimelineItem, RoomExt as _, Timeline, TimelineReadReceiptTracking},
};

use crate::{
    PATIENCE,
    person::{Result, ensure},
};

/// How often something is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Rooms of the list that are looked at.
const ROOMS_MAX: usize = 50;

/// A person's device.
pub struct Viewer {
    /// The client, as others made it.
    pub client: Client,
    service: SyncService,
}

impl Viewer {
    /// Logs a new device in, if the server says that it has sliding sync, and starts to sync.
    pub async fn log_in(url: &str, name: &str, password: &str, device_id: &str) -> Result<Self> {
        let client = Client::builder()
            .homeserver_url(url)
            .sliding_sync_version_builder(VersionBuilder::DiscoverNative)
            .build()
            .await?;
        client.matrix_auth().login_username(name, password).device_id(device_id).send().await?;
        client.encryption().wait_for_e2ee_initialization_tasks().await;
        let service = SyncService::builder(client.clone()).build().await?;
        service.start().await;
        Ok(Self { client, service })
    }

    /// Who it is.
    pub fn id(&self) -> Result<OwnedUserId> {
        Ok(self.client.user_id().ok_or("not logged in")?.to_owned())
    }

    /// Stops to sync, as an app in the background does.
    pub async fn stop(&self) {
        self.service.stop().await;
    }

    /// Syncs again from where it stopped.
    pub async fn start(&self) {
        self.service.start().await;
    }

    /// A room that it knows.
    pub fn room(&self, room_id: &RoomId) -> Result<Room> {
        self.client.get_room(room_id).ok_or_else(|| "the room is not known".into())
    }

    /// The rooms as the list shows them now, the one with the latest news first.
    pub async fn rooms(&self) -> Result<Vec<OwnedRoomId>> {
        let list = self.service.room_list_service().all_rooms().await?;
        let (entries, controller) = list.entries_with_dynamic_adapters(ROOMS_MAX);
        controller.set_filter(Box::new(new_filter_non_left()));
        let mut entries = pin!(entries);
        let first = entries.next().await.ok_or("the list ended")?;
        let [VectorDiff::Reset { values }] = first.as_slice() else {
            return Err(format!("the list began with {} changes", first.len()).into());
        };
        Ok(values.iter().map(|room| room.room_id().to_owned()).collect())
    }

    /// Opens a room: subscribes to it and shows its timeline.
    pub async fn open(&self, room_id: &RoomId) -> Result<Timeline> {
        self.service.room_list_service().subscribe_to_rooms(&[room_id]).await;
        let timeline = self.room(room_id)?.timeline_builder();
        let tracked = TimelineReadReceiptTracking::AllEvents;
        Ok(timeline.track_read_marker_and_receipts(tracked).build().await?)
    }
}

/// The event whose text is shown as `text`.
pub async fn shown(timeline: &Timeline, text: &str) -> Option<EventTimelineItem> {
    let items = timeline.items().await;
    items.iter().rev().filter_map(|item| item.as_event()).find(|event| body(event) == Some(text)).cloned()
}

/// What an event is shown as, if it is a message.
pub fn body(event: &EventTimelineItem) -> Option<&str> {
    Some(event.content().as_message()?.body())
}

/// Waits until `look` finds something.
pub async fn until<T>(what: &str, look: impl AsyncFn() -> Result<Option<T>>) -> Result<T> {
    let looking = async {
        loop {
            if let Some(found) = look().await? {
                return Ok(found);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.map_err(|_| format!("waited in vain for {what}"))?
}

/// Waits until a timeline shows a text.
pub async fn shows(timeline: &Timeline, text: &str) -> Result<EventTimelineItem> {
    let what = format!("{:?} to see {text:?}", timeline.room().own_user_id());
    let found = until(&what, async || Ok(shown(timeline, text).await)).await;
    if found.is_err() {
        let items = timeline.items().await;
        let texts: Vec<_> = items
            .iter()
            .filter_map(|item| item.as_event().map(matrix_sdk_ui::timeline::EventTimelineItem::content))
            .collect();
        eprintln!("{what}: the timeline is {texts:?}");
    }
    found
}

/// Waits until something holds.
pub async fn holds(what: &str, look: impl AsyncFn() -> Result<bool>) -> Result<()> {
    until(what, async || Ok(look().await?.then_some(()))).await
}

/// Ends with an error unless two lists of rooms are the same.
pub fn same(rooms: &[OwnedRoomId], expected: &[&RoomId]) -> Result<()> {
    ensure(rooms == expected, || format!("the list is {rooms:?}, not {expected:?}"))
}
