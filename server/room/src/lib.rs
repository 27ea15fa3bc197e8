//! Room events and their rules, pure: PDUs, authorisation, state resolution.
