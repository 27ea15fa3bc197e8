//! The same rooms as a homeserver takes them in: by what its federation door hands to its rooms
//! once signatures are checked (`Rooms::receive_pdus`), on a database of its own. What it stored
//! of each event, whether it is part of the room, and the state before and after it, is held
//! against [`super::room`]'s judgement, which [`super::synapse`] holds against another homeserver's.
//!
//! Not here: soft failure, which depends on the order of arrival and changes none of these.

use std::{
    ops::Range,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use causeway_room::Pdu;
use causeway_service::{
    Services,
    clock::Clock,
    remote::RemoteHandle,
    rooms::{Received, Results, VersionRules},
    settings::Settings,
};
use causeway_storage::{Database, Options};
use ruma::{OwnedEventId, OwnedRoomId, server_name};
use tempfile::TempDir;

use super::{people, room::Room, version};
use crate::result::{Failure, Result};

/// What came of rooms that a server took in.
#[derive(Debug, Default)]
pub struct Taken {
    /// Rooms.
    pub rooms: u64,
    /// Events that were held against the judgement.
    pub events: usize,
    /// Of these, rejected by both.
    pub rejected: usize,
    /// Events that came when nobody of the server was in the room any more.
    pub outside: usize,
    /// Seeds that differ, and where.
    pub differences: Vec<(u64, String)>,
}

impl std::fmt::Display for Taken {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rooms, events, rejected, outside, differences } = self;
        let differences = differences.len();
        write!(
            out,
            "a server took {rooms} rooms in, {events} events ({rejected} of them rejected, {outside} more \
             when it was out of the room), {differences} differences"
        )
    }
}

/// How events come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// One after the other, as long as the server is in the room.
    Single,
    /// All at once, the last first; one after the other if some follow the create event only.
    Together,
}

/// A server with one room, of which it knows the beginning.
struct Server {
    services: Services,
    room_id: OwnedRoomId,
    _folder: TempDir,
}

impl Server {
    /// That of the creator, with his join.
    fn begin(room: &Room) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let failed = |error: &dyn std::fmt::Display| Failure::new(format!("the server fails: {error}"));
        let database = Database::open(folder.path(), &Options::default()).map_err(|error| failed(&error))?;
        let (remote, _requests) = RemoteHandle::channel();
        let settings = Settings::for_tests(server_name!("a.example").to_owned());
        let services =
            Services::open(database, settings, Clock::System, remote).map_err(|error| failed(&error))?;
        let room_id = room.room_id().ok_or_else(|| Failure::new("a room without id"))?;
        let rules = VersionRules::of(&room.version).map_err(|error| failed(&error))?;
        let (create, join) = (parsed(room, 0)?, parsed(room, 1)?);
        let joined = services.rooms.import_join(&room_id, &rules, join, vec![create], Vec::new());
        joined.map_err(|error| failed(&error))?;
        Ok(Self { services, room_id, _folder: folder })
    }

    fn receive(&self, pdus: Vec<Pdu>) -> Result<Results> {
        let results = self.services.rooms.receive_pdus(server_name!("b.example"), &self.room_id, pdus);
        results.map_err(|error| Failure::new(format!("receiving fails: {error}")))
    }

    /// What was said of the events, after the first two, that came while the server was in the room.
    fn take(&self, room: &Room, arrival: Arrival) -> Result<Results> {
        let places = 2..room.steps.len();
        // What the state after the create event is, is said of a room that is joined later: an event
        // that follows nothing else comes with that state.
        let create = room.steps.first().map(|step| step.event.event_id().to_owned());
        let beginning: Vec<OwnedEventId> = create.into_iter().collect();
        let follows = |place: usize| room.steps[place].event.prev_events().contains(&beginning[0]);
        if arrival == Arrival::Together && !places.clone().any(follows) {
            let pdus = places.clone().rev().map(|place| parsed(room, place));
            return self.receive(pdus.collect::<Result<Vec<_>>>()?);
        }
        let mut results = Results::new();
        for place in places {
            let pdu = parsed(room, place)?;
            let event_id = pdu.event_id().to_owned();
            let received = if follows(place) {
                let taken = self.services.rooms.import_state(&self.room_id, pdu, &beginning);
                taken.map_err(|error| Failure::new(format!("receiving fails: {error}")))?
            } else {
                self.receive(vec![pdu])?.remove(0).1
            };
            if matches!(received, Received::Refused(_)) {
                break;
            }
            results.push((event_id, received));
        }
        Ok(results)
    }

    /// What was made of an event, if it is another thing than the judgement says.
    fn difference(&self, room: &mut Room, place: usize) -> Result<Option<String>> {
        let step = &room.steps[place];
        let (event, allowed, after) = (step.event.clone(), step.verdict.allowed(), step.after);
        let before = room.before(event.prev_events())?;
        let held = self.services.rooms.held(event.event_id());
        let held = held.map_err(|error| Failure::new(format!("reading fails: {error}")))?;
        let told = match held {
            None => "it does not hold it".to_owned(),
            Some(held) if held.meta.outlier => "it is an outlier there".to_owned(),
            Some(held) if held.meta.rejected.is_none() != allowed => {
                format!("rejected there: {:?}, ours: {:?}", held.meta.rejected, room.steps[place].verdict)
            }
            Some(held) if held.meta.state_before != Some(before) => "another state before it".to_owned(),
            Some(held) if held.meta.state_after != Some(after) => "another state after it".to_owned(),
            Some(_) => return Ok(None),
        };
        Ok(Some(format!("{} {}: {told}", event.event_id(), event.raw())))
    }
}

/// An event as it comes: nothing is known of it.
fn parsed(room: &Room, place: usize) -> Result<Pdu> {
    let step = room.steps.get(place).ok_or_else(|| Failure::new("a room without a beginning"))?;
    Pdu::parse(&room.rules, step.event.raw().get()).map_err(|error| Failure::new(format!("{error:?}")))
}

/// Has a server take a room in, and holds what it made of it against the judgement: how many
/// events there were, and the first difference.
pub fn compare(room: &mut Room, arrival: Arrival) -> Result<(usize, Option<String>)> {
    let server = Server::begin(room)?;
    let results = server.take(room, arrival)?;
    for place in 2..2 + results.len() {
        if let Some(difference) = server.difference(room, place)? {
            let id = room.steps[place].event.event_id();
            let said = results.iter().find(|(of, _)| of == id).map(|(_, received)| received);
            return Ok((results.len(), Some(format!("{difference}; it said {said:?}"))));
        }
    }
    Ok((results.len(), None))
}

/// The same with the rooms of these seeds.
pub fn compare_all(seeds: Range<u64>, threads: usize, tell: fn(&str)) -> Result<Taken> {
    let next = AtomicU64::new(seeds.start);
    let taken = Mutex::new(Taken::default());
    let work = || -> Result<()> {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return Ok(());
            }
            let mut room = people::grow(&version(seed), seed)?;
            // Versions and arrivals in all pairs, whatever their numbers are.
            let versions = causeway_room::version::SUPPORTED.len() as u64;
            let arrival =
                if (seed / versions).is_multiple_of(2) { Arrival::Single } else { Arrival::Together };
            let (events, difference) = compare(&mut room, arrival)?;
            let rejected = room.steps[2..2 + events].iter().filter(|step| !step.verdict.allowed()).count();
            let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
            taken.rooms += 1;
            taken.events += events;
            taken.rejected += rejected;
            taken.outside += room.steps.len() - 2 - events;
            if let Some(difference) = difference {
                tell(&format!("seed {seed} (room version {}, {arrival:?}): {difference}", version(seed)));
                taken.differences.push((seed, difference));
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    Ok(taken.into_inner().unwrap_or_else(PoisonError::into_inner))
}
