//! Servers that talk to each other over real TLS on loopback.

mod addresses;
mod closest_event;
mod delivery;
mod encryption;
mod ephemeral;
mod forgeries;
mod gap_abuse;
mod gaps;
mod hearsay;
mod hostile;
mod identity_server;
mod knocks;
mod liar;
mod memberships;
mod newcomer;
mod notary;
mod own_keys;
mod policies;
mod pushes;
mod requests;
mod rooms;
mod slow;
mod spaces;
mod support;
mod third_party;
