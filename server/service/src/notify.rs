//! Waking those who wait for something new: long polls and drivers.
//!
//! A notification says only "look again"; what is new is always read from
//! storage, up to its visible position. So a spurious wake-up is harmless and
//! none is ever lost: a subscription made before a look is woken by whatever is
//! committed after that look.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ruma::{OwnedDeviceId, OwnedRoomId, OwnedUserId};
use tokio::sync::Notify;

/// What can be waited for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// Timeline, state or ephemeral data of a room.
    Room(OwnedRoomId),
    /// A user's account data, memberships or invites.
    User(OwnedUserId),
    /// To-device messages and key counts of one device.
    Device(OwnedUserId, OwnedDeviceId),
    /// The changes of a room's shared space.
    Space(OwnedRoomId),
    /// The changes of any room's shared space: for replication.
    Spaces,
    /// Which rooms of the homeserver beside a sidecar have shared spaces.
    Upstream,
    /// Files that items refer to and that are to be fetched.
    WantedFiles,
    /// Anything in any room: for drivers that follow the whole stream.
    Stream,
    /// Somebody read something that push gateways are to be told of.
    Badges,
    /// Device lists of other servers' users are to be fetched.
    DeviceLists,
    /// Rows for other servers are waiting.
    Outbox,
    /// Application services changed, or something beside events waits for one.
    Appservices,
}

/// Hands out subscriptions and wakes them.
#[derive(Debug, Default)]
pub struct Notifier {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next_id: u64,
    by_topic: HashMap<Topic, HashMap<u64, Arc<Notify>>>,
}

impl Notifier {
    /// A subscription to all of `topics`. Subscribe first, then look.
    pub fn subscribe(self: &Arc<Self>, topics: impl IntoIterator<Item = Topic>) -> Subscription {
        let wake = Arc::new(Notify::new());
        let topics: Vec<Topic> = topics.into_iter().collect();
        let mut waiting = self.lock();
        let id = waiting.next_id;
        waiting.next_id += 1;
        for topic in &topics {
            waiting.by_topic.entry(topic.clone()).or_default().insert(id, Arc::clone(&wake));
        }
        drop(waiting);
        Subscription { notifier: Arc::clone(self), id, topics, wake }
    }

    /// Wakes every subscription to any of `topics`.
    pub fn notify<'a>(&self, topics: impl IntoIterator<Item = &'a Topic>) {
        let waiting = self.lock();
        for topic in topics {
            for wake in waiting.by_topic.get(topic).into_iter().flat_map(HashMap::values) {
                wake.notify_one();
            }
        }
    }

    /// The map is consistent between statements, so a panic elsewhere while it
    /// was held must not stop every long poll of the server.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes when one of its topics is notified; ends when dropped.
#[derive(Debug)]
pub struct Subscription {
    notifier: Arc<Notifier>,
    id: u64,
    topics: Vec<Topic>,
    wake: Arc<Notify>,
}

impl Subscription {
    /// Waits for a notification made since the subscription or the last call.
    pub async fn changed(&self) {
        self.wake.notified().await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut waiting = self.notifier.lock();
        for topic in &self.topics {
            if let Some(ids) = waiting.by_topic.get_mut(topic) {
                ids.remove(&self.id);
                if ids.is_empty() {
                    waiting.by_topic.remove(topic);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_notification_between_look_and_wait_is_not_lost() {
        let notifier = Arc::new(Notifier::default());
        let subscription = notifier.subscribe([Topic::Stream, Topic::Outbox]);
        notifier.notify([&Topic::Outbox]);
        subscription.changed().await;
        drop(subscription);
        assert!(notifier.lock().by_topic.is_empty());
    }
}
