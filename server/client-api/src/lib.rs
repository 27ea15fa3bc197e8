//! The client-server API door.
