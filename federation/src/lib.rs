//! The server-server API door.
