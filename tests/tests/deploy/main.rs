//! What `deploy/` holds, judged by the programs that it is for, as far as they can be
//! had: systemd, nginx, Caddy, Prometheus, and the schemas of the others. Servers
//! behind the proxies are tried in `tests/tests/cluster/proxied.rs`.

mod compose;
mod debian;
mod files;
mod kubernetes;
mod monitoring;
mod package;
mod systemd;
